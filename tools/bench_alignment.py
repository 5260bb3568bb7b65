"""Time every way to measure alignments against plain training, and count memory and bytes.

Each engine runs in processes of its own, on made-up tokens. Sections:

cost           Every probe on as many sequences as an optimizer step trains on, in turns with plain
               steps (forward, backward and step of a few micro-batches). A ratio is the median
               over the rounds of a sequence's time in a probe to one in training. The specific
               gradient is timed apart: `with specific` counts its sequences and time as well. In
               flight it is a step with hooks against one without. Plain steps at both ends of a
               round show how far the machine was from quiet.
memory         The most that live tensors hold in an update, less what they hold in a step.
communication  What collectives carry in an update, on one rank.
domains        Whole updates with few and many domains that share a number of sequences, on a
               smaller model.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from alignment_bench.bars import verdicts
from alignment_bench.case import SECTIONS, Case, Row, Section, llama_shape
from alignment_bench.launching import run_case
from alignment_bench.tables import merged, show
from alignment_bench.tokens import write_tokens
from megadga.config.llama_shapes import PRESETS
from megadga.console import run_program, tool_parser

EPILOG = """\
example:
  python tools/bench_alignment.py --only cost --ranks 2 --stages 0 3

Takes about 15 minutes on two cores. --gpu measures megadga's 125m and 350m presets in bf16 with
sequences of 1,024 tokens instead, a rank a CUDA device; without a device it does nothing.
"""


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION",
        help="cost, memory, communication, domains (all)")  # fmt: skip
    add("--ranks", type=int, nargs="+", default=[1, 2], metavar="N", help="processes (1 2)")
    add("--stages", type=int, nargs="+", default=[0, 1, 2, 3], choices=range(4), metavar="STAGE",
        help="of ZeRO (0 1 2 3)")  # fmt: skip
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="(%(default)s)")
    add("--presets", nargs="+", choices=PRESETS, default=[], metavar="NAME",
        help="models to measure instead of one of --width and --layers")  # fmt: skip
    add("--width", type=int, default=512, metavar="N", help="of the model (%(default)s)")
    add("--layers", type=int, default=4, metavar="N", help="(%(default)s)")
    add("--vocab-size", type=int, default=8192, metavar="N", help="(%(default)s)")
    add("--sequence-length", type=int, default=256, metavar="N", help="(%(default)s)")
    add("--micro-batch", type=int, default=2, metavar="N", help="sequences per rank (%(default)s)")
    add("--accumulation", type=int, default=2, metavar="N",
        help="micro-batches of a step, over which its optimizer's time spreads "
        "(%(default)s)")  # fmt: skip
    add("--rank", type=int, default=16, metavar="N", help="of low-rank factors (%(default)s)")
    add("--rounds", type=int, default=3, metavar="N", help="(%(default)s)")
    add("--domains", type=int, nargs="+", default=[8, 64, 512], metavar="K",
        help="for the section domains (8 64 512)")  # fmt: skip
    add("--domain-sequences", type=int, default=512, metavar="N",
        help="of an update there, a multiple of each K (%(default)s)")  # fmt: skip
    add("--gpu", action="store_true", help="needs a CUDA device; see below")
    add("--output", type=Path, default=Path("build/bench/alignment.json"), metavar="FILE")
    args = parser.parse_args()
    if args.gpu:
        ranks = sorted({1, max(1, torch.cuda.device_count())})
        parser.set_defaults(
            presets=["125m", "350m"], precision="bf16", sequence_length=1024, vocab_size=32_000,
            micro_batch=8, accumulation=4, ranks=ranks, rounds=7,
            output=Path("build/bench/alignment-gpu.json"),
        )  # fmt: skip
        args = parser.parse_args()
    if any(args.domain_sequences % count for count in args.domains):
        parser.error(
            f"--domain-sequences: expected a multiple of {args.domains}, "
            f"found {args.domain_sequences}"
        )
    return args


def cases(args: argparse.Namespace) -> list[Case]:
    """Return what is measured, a case a group of processes."""
    own = f"width {args.width}"
    shapes = {name: PRESETS[name] for name in args.presets}
    shapes = shapes or {own: llama_shape(args.width, args.layers)}
    found: list[Case] = []
    for model, shape in shapes.items():
        first = Case(
            sections=tuple(section for section in args.only if section != "domains"),
            ranks=1,
            stage=0,
            precision=args.precision,
            shape=shape,
            model=model,
            vocabulary_size=args.vocab_size,
            sequence_length=args.sequence_length,
            micro_batch=args.micro_batch,
            accumulation=args.accumulation,
            rank=args.rank,
            rounds=args.rounds,
            num_domains=tuple(args.domains),
            total_sequences=args.domain_sequences,
        )
        if first.sections:
            found += [replace(first, ranks=r, stage=s) for r in args.ranks for s in args.stages]
        if "domains" in args.only:
            found += many_domains(first, args)
    return found


def many_domains(case: Case, args: argparse.Namespace) -> list[Case]:
    """Return the cases of the section domains: a smaller model unless it is a preset."""
    smaller = replace(case, sections=("domains",), stage=2)
    if not args.presets:
        shape = llama_shape(max(64, args.width // 4), 2)
        smaller = replace(
            smaller, shape=shape, model=f"width {shape.hidden_size}", sequence_length=32
        )
    if not args.gpu:
        return [replace(smaller, ranks=ranks) for ranks in (*args.ranks, 2 * max(args.ranks))]
    return [replace(smaller, ranks=ranks) for ranks in args.ranks]


def measure(planned: Sequence[Case]) -> dict[Section, list[Row]]:
    """Run the cases one after another and return their rows by section."""
    rows: dict[Section, list[Row]] = {section: [] for section in SECTIONS}
    with TemporaryDirectory() as name, tqdm(planned, disable=None) as progress:
        for number, case in enumerate(progress):
            progress.set_description(", ".join(f"{k} {v}" for k, v in case.labels().items()))
            tokens = Path(name) / str(number)
            write_tokens(tokens, case)
            for section, found in run_case(case, tokens).items():
                rows[section] += found
    return rows


def main() -> None:
    """Parse the command line, measure, print tables and write the numbers as JSON."""
    args = parse()
    if args.gpu and not torch.cuda.is_available():
        print(f"skipped: needs a CUDA device, torch {torch.__version__} found none")
        return
    rows = measure(cases(args))
    bars = verdicts(rows)
    show(rows, bars)
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    record = {
        "machine": platform.platform(),
        "settings": settings,
        "rows": merged(rows),
        "domains": rows["domains"],
        "bars": bars,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
