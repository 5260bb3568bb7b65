"""Time what is logged of a small run: its own files, and each monitor on top of them.

Runs of the same model, data and batches live side by side in one process and take turns, some
steps at a time: one that logs nothing at all before and after each of the others. What a run logs
takes the time with, divided by the mean time without on both sides of it, less 1. Beside other
load that is noise; so the processor time that the training loop spends inside calls that log is
counted as well, which leaves out threads and processes that monitors have beside it. Synthetic
shards: the text does not matter here.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench_overhead import TOKENIZER, documents
from megadga.console import run_program, tool_parser
from megadga.data.create import create_domain
from trials.interleaving import PLAIN, Segment, overheads

BAR = 0.005
EPILOG = """\
example:
  python tools/bench_logging.py --rounds 9

Takes about five minutes on a machine that has nothing else to do.
"""
MONITORS = {
    PLAIN: "{}",
    "files": "{}",
    "tensorboard": "{tensorboard: {}}",
    "csv": "{csv: {}}",
    "wandb": "{wandb: {offline: true}}",
}
"""The section `monitor` of each run; the plain one logs nothing, the second its own files."""
_RUN = """\
seed: 0
output: {output}
model: {{type: llama, preset: tiny, sequence_length: {sequence_length}}}
data: {{domains: {folder}/domains, specific: {{target: {{path: {folder}/target}}}}}}
mixing:
  type: dga
  preset: paper
  interval: 20
  step_size: 0.1
  probe: {{type: directional, sequences_per_domain: 1, specific_sequences: 8}}
training: {{steps: 1000000, global_batch_size: {batch}, micro_batch_size: {batch}}}
deepspeed:
  zero_optimization: {{stage: 2}}
  optimizer: {{type: AdamW, params: {{torch_adam: true, lr: 1.0e-3}}}}
evaluation: null
checkpoint: null
monitor: {monitor}
"""


def main() -> None:
    """Parse the command line, train in turns, and write what logging takes as JSON."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--domains", type=int, default=16, metavar="K", help="(%(default)s)")
    add("--batch", type=int, default=16, metavar="B", help="sequences of a step (%(default)s)")
    add("--sequence-length", type=int, default=256, metavar="S", help="(%(default)s)")
    add("--steps", type=int, default=40, metavar="N", help="of a turn (%(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="(%(default)s)")
    add("--output", type=Path, default=Path("build/bench/logging.json"), help="(%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(args.domains):
            create_domain(
                folder / "domains" / f"d{index:04d}", TOKENIZER, {"train": documents(index)}
            )
        create_domain(folder / "target", TOKENIZER, {"train": documents(args.domains)})
        for run, monitor in MONITORS.items():
            text = _RUN.format(
                output=json.dumps(str(folder / run)),
                folder=folder,
                sequence_length=args.sequence_length,
                batch=args.batch,
                monitor=monitor,
            )
            (folder / f"{run}.yaml").write_text(text)
        by_clock, calls = run_in_turns(folder, args.steps, args.rounds)
    record = {clock: show(clock, rounds, args.steps) for clock, rounds in by_clock.items()}
    record["calls"] = show_calls(calls, record["processor"]["step_s"])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n")


def show(clock: str, rounds: list[list[Segment]], steps: int) -> dict[str, Any]:
    """Print what logging takes by one clock, and return it for JSON."""
    found = overheads(rounds)
    plain = [each.seconds for segments in rounds for each in segments if each.name == PLAIN]
    step_s = median(plain) / steps
    print(f"{clock} time: {step_s * 1000:.1f} ms a step without, the median")
    for run, overhead in found.items():
        spread = overhead.highest - overhead.lowest
        noise = "; rounds differ by more than what is looked for" if spread > BAR else ""
        print(
            f"{run:>12}: {overhead.median:+.2%} (from {overhead.lowest:+.2%} to "
            f"{overhead.highest:+.2%}){noise}"
        )
    return {"step_s": step_s, "overheads": {run: asdict(each) for run, each in found.items()}}


def show_calls(calls: Mapping[str, float], step_s: float) -> dict[str, float]:
    """Print the share of a step's processor time that the loop spends on logging."""
    print("processor time of the training loop inside calls that log:")
    for run, seconds in calls.items():
        share = seconds / step_s
        verdict = "at most" if share <= BAR else "more than"
        print(f"{run:>12}: {seconds * 1e3:.3f} ms a step, {share:.2%}; {verdict} {BAR:.1%}")
    return {run: seconds / step_s for run, seconds in calls.items()}


def run_in_turns(
    folder: Path, steps: int, rounds: int
) -> tuple[dict[str, list[list[Segment]]], dict[str, float]]:
    """Train in a process of its own.

    Returns:
        The segments of each round by two clocks, and seconds of a step inside calls that log.
    """
    output, log = folder / "seconds.json", folder / "log.txt"
    configs = [str(folder / f"{run}.yaml") for run in MONITORS]
    worker = ("-m", "trials.logging_worker", str(output), str(steps), str(rounds))
    tools = str(Path(__file__).parent.absolute())
    search = os.pathsep.join(filter(None, (tools, os.environ.get("PYTHONPATH"))))
    with log.open("w") as sink:
        status = subprocess.run(  # noqa: S603  (our own arguments, and no shell)
            [sys.executable, *worker, *configs],
            stdout=sink,
            stderr=sink,
            env={**os.environ, "PYTHONPATH": search},
            check=False,
        ).returncode
    if status:
        raise SystemExit(f"{log.read_text()[-4000:]}\ntraining ended with {status}")
    found = json.loads(output.read_text())
    by_clock = {
        clock: [[Segment(**each) for each in segments] for segments in rounds_]
        for clock, rounds_ in found["segments"].items()
    }
    return by_clock, found["calls_s"]


if __name__ == "__main__":
    run_program(main)
