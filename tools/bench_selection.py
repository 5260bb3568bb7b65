"""Train on 30 % of a corpus, chosen by influence on a target, by density and at random.

All domains are merged into one: which documents are kept decides the mixture, too. A proxy is
trained on all of it; influence is that at two of its checkpoints. Losses are those of the
target's validation split, and of the domains' (general).
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

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
mixing: {{type: static, weights: uniform}}
training: {{steps: {steps}, global_batch_size: 16, micro_batch_size: 16}}
deepspeed: deepspeed.json
evaluation: {{interval: {half}, sequences: 256}}
checkpoint: {checkpoint}
"""
DEEPSPEED = {
    "zero_optimization": {"stage": 0},
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 2e-3}},
}
ARMS = {
    # At a temperature that no score matters at, a sample is one of all documents alike.
    "random": ["--scores", "density", "--temperature", "1e9"],
    "density": ["--scores", "density", "--temperature", "1"],
    "influence": ["--scores", "influence"],
}


def main() -> None:
    """Parse the command line, train, print the losses and write them as JSON."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help="files, one per domain")
    add("--target", nargs=2, type=Path, required=True, metavar="FILE", help="train and valid")
    add("--documents", type=int, default=500, metavar="N", help="of each file (%(default)s)")
    add("--preset", default="tiny", help="of the model (%(default)s)")
    add("--steps", type=int, default=600, metavar="N", help="of each run (%(default)s)")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each choice (%(default)s)")
    add("--keep", type=float, default=0.3, metavar="SHARE", help="(%(default)s)")
    add("--folder", type=Path, default=Path("build/bench/selection"), metavar="FOLDER")
    args = parser.parse_args()
    inputs = expand_inputs(args.input)
    folder: Path = args.folder
    if (folder / "runs").exists():
        raise ConfigError(f"{folder}: expected no earlier trial, found one: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "deepspeed.json").write_text(json.dumps(DEEPSPEED))
    _prepare(folder, inputs, args.target, documents=args.documents)
    shape = {"preset": args.preset, "steps": args.steps, "half": args.steps // 2}
    _train(folder, "proxy", "all", seed=99, **shape)
    _score(folder, args.steps)
    losses: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in range(args.seeds):
        for arm, options in ARMS.items():
            name, sampled = f"{arm}-{seed}", "--temperature" in options
            _megadga(
                folder, "data", "select", "all/web", f"{name}/web", "--keep", str(args.keep),
                *options, *(["--seed", str(seed)] if sampled else []),
            )  # fmt: skip
            losses[arm].append(_train(folder, name, name, seed=seed, **shape))
            _report(folder, losses)


def _prepare(
    folder: Path, inputs: Sequence[Path], target: Sequence[Path], *, documents: int
) -> None:
    """Build shards of one domain of all inputs, the target's, and a clustering."""
    text = folder / "text"
    text.mkdir()
    for path in inputs:
        with gzip.open(path, "rb") as file, gzip.open(text / path.name, "wb") as kept:
            kept.writelines(islice(file, documents))
    for path, split in zip(target, ("train", "valid"), strict=True):
        (text / f"target.{split}.jsonl.gz").write_bytes(path.read_bytes())
    domains = sorted(set(text.glob("*.gz")) - set(text.glob("target.*")))
    train_tokenizer(
        sample_texts(domains, max_characters=10_000_000), vocab_size=4000, prefix=folder / "small"
    )
    names = [f"text/{path.name}" for path in domains]
    build = ["data", "build", "--tokenizer", "small.model"]
    _megadga(folder, *build, "--input", *names, "--output", "domains", "--valid-fraction", "0.1")
    _megadga(folder, *build, "--input", "text/target.*.jsonl.gz", "--output", "specific")
    parts = sorted(
        str(path.parent.relative_to(folder)) for path in folder.glob("domains/*/*.json")
    )
    parts = [each for each in dict.fromkeys(parts) if (folder / each / "manifest.json").exists()]
    _megadga(folder, "data", "merge", *parts, "--output", "all/web")
    (tokenizer,) = (folder / "domains").glob("tokenizer-*")
    (folder / "all" / tokenizer.name).write_bytes(tokenizer.read_bytes())
    _megadga(
        folder, "data", "cluster", "--input", *names, "--levels", "16", "--output", "clusters"
    )


def _score(folder: Path, steps: int) -> None:
    score = ["data", "score", "all/web", "--scorer"]
    _megadga(folder, *score, "density", "--embedder", "clusters")
    _megadga(
        folder, *score, "influence", "--model", "runs/proxy", "--step", str(steps // 2),
        "--step", str(steps), "--target", "specific/target",
    )  # fmt: skip


def _train(
    folder: Path, name: str, shards: str, *, seed: int, preset: str, steps: int, half: int
) -> dict[str, float]:
    """Train a run; return its last losses, nats per token."""
    checkpoint = f"{{interval: {half}, keep_last: 2}}" if name == "proxy" else "null"
    values = {"preset": preset, "steps": steps, "half": half, "checkpoint": checkpoint}
    text = RUN.format(name=name, shards=shards, seed=seed, **values)
    (folder / f"{name}.yaml").write_text(text)
    _megadga(folder, "train", f"{name}.yaml")
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    *_, last = (each for each in map(json.loads, lines) if each["type"] == "evaluation")
    return {"target": last["specific"]["target"], "general": last["general"]}


def _megadga(folder: Path, *arguments: str) -> None:
    print("megadga", *arguments, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "megadga.cli", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def _report(folder: Path, losses: dict[str, list[dict[str, float]]]) -> None:
    """Print means with standard errors over seeds, and write all losses."""
    (folder / "losses.json").write_text(json.dumps(losses, indent=2) + "\n")
    for arm, runs in losses.items():
        for key in ("target", "general") if runs else ():
            found = np.array([run[key] for run in runs])
            error = found.std(ddof=1) / found.size**0.5 if found.size > 1 else float("nan")
            print(f"{arm:<10} {key:<8} {found.mean():.4f} ± {error:.4f} ({found.size} seeds)")
    print(flush=True)


if __name__ == "__main__":
    run_program(main)
