"""Compare low-rank and old directions with fresh, whole ones at every update of a training run.

Trains a small decoder with DGA, driven by alignments along the whole specific gradient. At each
update the same sequences of the same model are measured along the specific gradient's low-rank
approximations as well, each of which starts from its own last one as it would alone; along
gradients measured some steps before; and once more on sequences drawn apart, which says how far
two probes differ anyway. Then the mixture's rule is replayed on what each would have told it.
One process; deviations do not depend on how busy the machine is.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from megadga.console import run_program, tool_parser
from megadga.data.folder import DomainSource, open_domain, open_domains
from megadga.demo.benchmark import prepare_shards
from megadga.errors import ConfigError, MegadgaError
from megadga.mixers.probing import Directional
from megadga.train.ranks import process_group
from trials.directions_report import draw, record, tables, weights_of
from trials.training import Recipe, Trained, train

EPILOG = """\
examples:
  python tools/bench_directions.py --input 'text/*.jsonl.gz' --target 'text/target/qa.*.jsonl.gz'
  python tools/bench_directions.py --domains shards/generic --specific shards/specific/qa

Takes about ten minutes on two cores. Writes directions.md, directions.json and directions.png.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--input", nargs="+", metavar="GLOB", help="files, one per domain (text of this machine)")
    add("--target", nargs="+", metavar="GLOB", help="files of the specific set, with --input")
    add("--domains", type=Path, metavar="FOLDER", help="shards instead of files")
    add("--specific", type=Path, metavar="FOLDER", help="the specific set's, with --domains")
    add("--vocab-size", type=int, default=8192, metavar="N", help="for files (%(default)s)")
    add("--steps", type=int, default=200, metavar="N", help="optimizer steps (%(default)s)")
    add("--interval", type=int, default=10, metavar="N", help="between updates (%(default)s)")
    add("--width", type=int, default=256, metavar="N", help="a multiple of 64 (%(default)s)")
    add("--layers", type=int, default=4, metavar="N", help="(%(default)s)")
    add("--sequence-length", type=int, default=128, metavar="S", help="(%(default)s)")
    add("--batch", type=int, default=8, metavar="B", help="sequences of a step (%(default)s)")
    add("--sequences-per-domain", type=int, default=4, metavar="N", help="(%(default)s)")
    add("--specific-sequences", type=int, default=16, metavar="N", help="(%(default)s)")
    add("--step-size", type=float, default=0.3, metavar="ETA", help="(%(default)s)")
    add("--ema", type=float, default=0.2, metavar="BETA", help="(%(default)s)")
    add("--learning-rate", type=float, default=2e-3, metavar="LR", help="(%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="(%(default)s)")
    add("--output", type=Path, default=Path("build/bench"), metavar="FOLDER", help="(%(default)s)")
    return parser


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the run that the options describe.

    Raises:
        ConfigError: If it is too short for three updates.
    """
    if args.interval < 1 or args.steps < 3 * args.interval:
        raise ConfigError(
            f"steps: expected at least three intervals of at least 1 step, found {args.steps} "
            f"steps and intervals of {args.interval}"
        )
    return Recipe(
        steps=args.steps,
        interval=args.interval,
        width=args.width,
        layers=args.layers,
        sequence_length=args.sequence_length,
        batch=args.batch,
        probe=Directional(
            sequences_per_domain=args.sequences_per_domain,
            specific_sequences=args.specific_sequences,
        ),
        step_size=args.step_size,
        ema=args.ema,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )


def run(args: argparse.Namespace, folder: Path) -> tuple[Recipe, Trained]:
    """Prepare what is missing of the shards in a folder, and train."""
    recipe = recipe_of(args)
    if (args.domains is None) != (args.specific is None):
        raise ConfigError("domains: expected --domains and --specific or neither, found one")
    where, target = args.domains, args.specific
    if where is None:
        where, target = prepare_shards(args.input, args.target, folder, vocab_size=args.vocab_size)
    length = recipe.sequence_length
    domains = open_domains(where, split="train", sequence_length=length)
    source = DomainSource(target.name, target)
    specific = open_domain(source, split="train", sequence_length=length)
    with process_group(), tqdm(total=recipe.steps, unit="step", mininterval=5.0) as bar:

        def report(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(step - bar.n)

        return recipe, train(recipe, domains, specific, report)


def main() -> None:
    """Parse the command line, train and measure, and write tables, numbers and a picture."""
    command = parser()
    args = command.parse_args()
    try:
        with TemporaryDirectory() as name:
            recipe, trained = run(args, Path(name))
    except MegadgaError as error:
        command.exit(2, f"{command.prog}: {error}\n")
    if len(trained.updates) < 3:
        command.exit(1, f"{command.prog}: interrupted before the third update\n")
    weights = weights_of(trained, recipe.scheduler(len(trained.names)))
    printed = tables(trained, weights)
    args.output.mkdir(parents=True, exist_ok=True)
    found = {
        "recipe": asdict(recipe) | {"probe": recipe.probe.model_dump()},
        **record(trained, weights),
    }
    (args.output / "directions.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.output / "directions.md").write_text(printed)
    draw(trained, weights, args.output / "directions.png")
    sys.stdout.write(printed)


if __name__ == "__main__":
    run_program(main)
