"""Train on documents that are chosen by influence on a target, by density and at random.

Three arms keep a share of one domain that all inputs are merged into: which documents are kept
decides the mixture, too. Three keep the inputs as domains: at equal weights, with DGA over them,
and with DGA over tiers of each by influence. Both measure what a batch holds anyway. A proxy is
trained on all of it; influence is that at two of its checkpoints. Losses are those of the target's
validation split, and the mean over the inputs of theirs (general).

What is finished is not done again: after an interruption, or with more seeds, the same command
goes on.
"""

import gzip
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from megadga.console import run_program, tool_parser
from megadga.errors import ConfigError
from megadga.prepare.reading.inputs import expand_inputs
from megadga.prepare.training import sample_texts, train_tokenizer

EPILOG = """\
example: python tools/bench_selection.py --input 'text/*.jsonl.gz' \\
             --target text/specific/pubmedqa.train.jsonl.gz text/specific/pubmedqa.valid.jsonl.gz
"""
RUN = """\
seed: {seed}
output: runs/{name}
model: {{type: llama, preset: {preset}, sequence_length: 128}}
data: {{domains: {shards}, specific: {{target: {{path: specific/target}}}}}}
mixing: {mixing}
training: {{steps: {steps}, global_batch_size: 16, micro_batch_size: 16}}
deepspeed: deepspeed.json
evaluation: {{interval: {steps}, sequences: 256, sets: {sets}}}
checkpoint: {checkpoint}
"""
DEEPSPEED = {
    "zero_optimization": {"stage": 0},
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 2e-3}},
}
UNIFORM = "{type: static, weights: uniform}"
DGA = "{type: dga, initial: uniform, step_size: 2.0, interval: 5, repeat_decay: null}"


@dataclass(frozen=True)
class Arm:
    """One way to choose what is trained on.

    Attributes:
        source: Scored shards, in the trial's folder.
        select: Options of `megadga data select`; none: the shards as they are.
        mixing: Of the run's configuration.
    """

    source: Literal["all", "domains"]
    select: tuple[str, ...]
    mixing: str

    @property
    def sampled(self) -> bool:
        """Whether documents are sampled, by the seed."""
        return "--temperature" in self.select


def arms(keep: float) -> dict[str, Arm]:
    """Return the arms of the trial, by name."""
    kept = ("--keep", str(keep), "--scores")
    tiers = ("--tiers", "4", "--scores", "influence")
    return {
        # At a temperature that no score matters at, a sample is one of all documents alike.
        "random": Arm("all", (*kept, "density", "--temperature", "1e9"), UNIFORM),
        "density": Arm("all", (*kept, "density", "--temperature", "1"), UNIFORM),
        "influence": Arm("all", (*kept, "influence"), UNIFORM),
        "domains": Arm("domains", (), UNIFORM),
        "dga-domains": Arm("domains", (), DGA),
        "dga-tiers": Arm("domains", tiers, DGA),
    }


def main() -> None:
    """Parse the command line, train, print the losses and write them as JSON."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help="files, one per domain")
    add("--target", nargs=2, type=Path, required=True, metavar="FILE", help="train and valid")
    add("--text", type=int, default=2_000_000, metavar="BYTES", help="of each file (%(default)s)")
    add("--preset", default="tiny", help="of the model (%(default)s)")
    add("--steps", type=int, default=600, metavar="N", help="of each run (%(default)s)")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each choice (%(default)s)")
    add("--keep", type=float, default=0.3, metavar="SHARE", help="(%(default)s)")
    add("--folder", type=Path, default=Path("build/bench/selection"), metavar="FOLDER")
    args = parser.parse_args()
    inputs = expand_inputs(args.input)
    trial = _open_trial(args, inputs)
    _prepare(trial, inputs, args.target, size=args.text)
    trial.train("proxy", "domains", "{type: static, weights: proportional}", (), seed=99)
    _score(trial, args.steps)
    losses: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name, arm in arms(args.keep).items():
            losses.setdefault(name, []).append(_run_arm(trial, name, arm, seed))
            _report(trial.folder, losses)


@final
@dataclass(frozen=True)
class Trial:
    """A folder, and what all runs in it have in common.

    Attributes:
        folder: Holds everything; `finished` there has the commands that ended well, one a line.
        preset: Of the model.
        steps: Optimizer steps of a run.
    """

    folder: Path
    preset: str
    steps: int

    def megadga(self, *arguments: str, makes: str | None = None) -> None:
        """Run a command, unless it is finished.

        Args:
            arguments: Of `megadga`; paths are relative to the folder.
            makes: What an interrupted command would have left, to be removed first; None: the
                command continues by itself.
        """
        finished, line = self.folder / "finished", " ".join(arguments)
        if finished.exists() and line in finished.read_text().splitlines():
            return
        if makes is not None:
            shutil.rmtree(self.folder / makes, ignore_errors=True)
        print("megadga", line, file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "megadga.cli", *arguments]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        with finished.open("a") as file:
            file.write(line + "\n")

    def train(
        self, name: str, shards: str, mixing: str, sets: Sequence[str], *, seed: int
    ) -> dict[str, float]:
        """Train a run, unless it is finished; return its last losses, nats per token.

        Args:
            name: Of the run.
            shards: What it is trained on.
            mixing: Of its configuration.
            sets: Domains whose mean validation loss is the general one; none: the run's own.
            seed: Of the run.
        """
        half = self.steps // 2
        checkpoint = f"{{interval: {half}, keep_last: 2}}" if name == "proxy" else "null"
        evaluated = ", ".join(f"{each}: {{path: domains/{each}}}" for each in sets)
        text = RUN.format(
            name=name, shards=shards, mixing=mixing, seed=seed, preset=self.preset,
            steps=self.steps, checkpoint=checkpoint, sets=f"{{{evaluated}}}",
        )  # fmt: skip
        (self.folder / f"{name}.yaml").write_text(text)
        self.megadga("train", f"{name}.yaml", makes=f"runs/{name}")
        lines = (self.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
        *_, last = (each for each in map(json.loads, lines) if each["type"] == "evaluation")
        general = [last["specific"][each] for each in sets] or [last["general"]]
        return {"target": last["specific"]["target"], "general": sum(general) / len(general)}

    def domains(self) -> list[str]:
        """Return the names of the domains that the inputs are."""
        return sorted(path.parent.name for path in self.folder.glob("domains/*/manifest.json"))


def _open_trial(args: Namespace, inputs: Sequence[Path]) -> Trial:
    """Return the trial in the folder, begun if it is new.

    Raises:
        ConfigError: If there is one of other options, but for the number of seeds.
    """
    folder: Path = args.folder
    options = {key: vars(args)[key] for key in ("text", "preset", "steps", "keep")}
    options |= {"input": [str(path) for path in inputs], "target": list(map(str, args.target))}
    text, kept = json.dumps(options, indent=2) + "\n", folder / "trial.json"
    if kept.exists() and kept.read_text() != text:
        raise ConfigError(f"{kept}: expected the options of this trial, found others: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(text)
    (folder / "deepspeed.json").write_text(json.dumps(DEEPSPEED))
    return Trial(folder, args.preset, args.steps)


def _prepare(trial: Trial, inputs: Sequence[Path], target: Sequence[Path], *, size: int) -> None:
    """Build shards of the inputs' beginnings and of the target, and a clustering."""
    folder = trial.folder
    text = folder / "text"
    if not (folder / "small.model").exists():
        text.mkdir(exist_ok=True)
        for path in inputs:
            with gzip.open(path, "rb") as file, gzip.open(text / path.name, "wb") as kept:
                kept.writelines(_beginning(file, size))
        for path, split in zip(target, ("train", "valid"), strict=True):
            (text / f"target.{split}.jsonl.gz").write_bytes(path.read_bytes())
        sample = sample_texts(_domain_files(text), max_characters=10_000_000)
        train_tokenizer(sample, vocab_size=4000, prefix=folder / "small")
    names = [f"text/{path.name}" for path in _domain_files(text)]
    build = ["data", "build", "--tokenizer", "small.model"]
    trial.megadga(*build, "--input", *names, "--output", "domains", "--valid-fraction", "0.1")
    trial.megadga(*build, "--input", "text/target.*.jsonl.gz", "--output", "specific")
    cluster = ["data", "cluster", "--input", *names, "--levels", "16"]
    trial.megadga(*cluster, "--output", "clusters")


def _beginning(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield lines until they have so many bytes."""
    taken = 0
    for line in lines:
        if taken >= size:
            return
        taken += len(line)
        yield line


def _domain_files(text: Path) -> list[Path]:
    return sorted(set(text.glob("*.gz")) - set(text.glob("target.*")))


def _score(trial: Trial, steps: int) -> None:
    """Score the documents of all domains together, and merge them with their scores."""
    score = ["data", "score", "domains", "--scorer"]
    trial.megadga(*score, "density", "--embedder", "clusters")
    trial.megadga(
        *score, "influence", "--model", "runs/proxy", "--step", str(steps // 2),
        "--step", str(steps), "--target", "specific/target",
    )  # fmt: skip
    parts = [f"domains/{name}" for name in trial.domains()]
    trial.megadga("data", "merge", *parts, "--output", "all/web", makes="all")
    (tokenizer,) = trial.folder.glob("domains/tokenizer-*")
    (trial.folder / "all" / tokenizer.name).write_bytes(tokenizer.read_bytes())


def _run_arm(trial: Trial, name: str, arm: Arm, seed: int) -> dict[str, float]:
    """Select what the arm is trained on, and train it; return its last losses."""
    shards: str = arm.source
    if arm.select:
        shards = f"{name}-{seed}" if arm.sampled else name
        seeded = ("--seed", str(seed)) if arm.sampled else ()
        select = ["data", "select", arm.source, shards, *arm.select, *seeded]
        trial.megadga(*select, makes=shards)
    sets = trial.domains() if arm.source == "all" else ()
    return trial.train(f"{name}-{seed}", shards, arm.mixing, sets, seed=seed)


def _report(folder: Path, losses: dict[str, list[dict[str, float]]]) -> None:
    """Print means with standard errors over seeds, and write all losses."""
    (folder / "losses.json").write_text(json.dumps(losses, indent=2) + "\n")
    for name, runs in losses.items():
        for key in ("target", "general"):
            found = np.array([run[key] for run in runs])
            error = found.std(ddof=1) / found.size**0.5 if found.size > 1 else float("nan")
            print(f"{name:<12} {key:<8} {found.mean():.4f} ± {error:.4f} ({found.size} seeds)")
    print(flush=True)


if __name__ == "__main__":
    run_program(main)
