"""Time what is logged of a small run: its own files, and each monitor on top of them.

Each run trains in pairs of turns of some steps, one with what it logs and one without, in
alternating order: the same model and batches in the same memory. Time with is divided by time
without, less 1; the mean over pairs is shown with its standard error, in which a machine's other
load is seen. So the processor time that the training loop spends inside calls that log is counted
as well, which leaves out threads and processes that monitors have beside it. Synthetic shards:
the text does not matter here.
"""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, TextIO

from bench_overhead import TOKENIZER, documents
from megadga.console import run_program, tool_parser
from megadga.data.create import create_domain
from trials.interleaving import Turn, paired_overhead

BAR = 0.005
EPILOG = """\
example:
  python tools/bench_logging.py --rounds 80

Takes a quarter of an hour on a machine that has nothing else to do.
"""
VIEW = "live view"
MONITORS = {
    "files": "{}",
    VIEW: "{}",
    "tensorboard": "{tensorboard: {}}",
    "csv": "{csv: {}}",
    "wandb": "{wandb: {offline: true}}",
}
"""The section `monitor` of each run; the first has its own files alone, the second a terminal."""
_RUN = """\
seed: 0
output: {output}
model: {{type: llama, preset: tiny, sequence_length: {sequence_length}}}
data: {{domains: {folder}/domains, specific: {{target: {{path: {folder}/target}}}}}}
mixing:
  type: dga
  preset: paper
  interval: {interval}
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
    add(
        "--steps",
        type=int,
        default=4,
        metavar="N",
        help="of a turn, one update each (%(default)s)",
    )
    add(
        "--rounds",
        type=int,
        default=40,
        metavar="N",
        help="pairs of turns, at least 4 (%(default)s)",
    )
    add(
        "--only",
        nargs="+",
        default=tuple(MONITORS),
        choices=tuple(MONITORS),
        metavar="RUN",
        help="%(choices)s (all)",
    )
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
                interval=args.steps,
            )
            (folder / f"{run}.yaml").write_text(text)
        record: dict[str, Any] = {}
        print("time with less time without, of the latter; ± a standard error", flush=True)
        for run in args.only:
            turns, calls_s = run_in_turns(folder, run, args.steps, args.rounds)
            record[run] = show(run, turns, calls_s, args.steps)
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(record, indent=2) + "\n")


def show(run: str, turns: Sequence[Turn], calls_s: float, steps: int) -> dict[str, Any]:
    """Print what logging takes by either clock and inside calls, and return it for JSON."""
    logged, plain = ([turn for turn in turns if turn.logged is each] for each in (True, False))
    wall = paired_overhead([t.wall_s for t in logged], [t.wall_s for t in plain])
    processor = paired_overhead([t.processor_s for t in logged], [t.processor_s for t in plain])
    step_s = median(turn.processor_s for turn in plain) / steps
    share = calls_s / step_s
    print(
        f"{run:>12}: {wall.mean:+.2%} ± {wall.standard_error:.2%} by the wall clock, "
        f"{processor.mean:+.2%} ± {processor.standard_error:.2%} of processor time; inside calls "
        f"{calls_s * 1e3:.3f} ms of {step_s * 1e3:.0f} ms a step, {share:.2%}: "
        f"{'at most' if share <= BAR else 'more than'} {BAR:.1%}",
        flush=True,
    )
    return {
        "step_s": step_s,
        "wall": asdict(wall),
        "processor": asdict(processor),
        "calls": share,
    }


def run_in_turns(folder: Path, run: str, steps: int, rounds: int) -> tuple[list[Turn], float]:
    """Train in a process of its own.

    Returns:
        The run's turns, and its seconds of a step inside calls that log.
    """
    output, log = folder / f"{run}.json", folder / f"{run}.log"
    worker = ("-m", "trials.logging_worker", str(folder / f"{run}.yaml"), str(output))
    tools = str(Path(__file__).parent.absolute())
    search = os.pathsep.join(filter(None, (tools, os.environ.get("PYTHONPATH"))))
    with log.open("w") as sink, terminal() if run == VIEW else nullcontext(sink) as drawn_on:
        status = subprocess.run(  # noqa: S603  (our own arguments, and no shell)
            [sys.executable, *worker, str(steps), str(rounds)],
            stdout=sink,
            stderr=drawn_on,
            env={**os.environ, "PYTHONPATH": search, "TERM": "xterm-256color"},
            check=False,
        ).returncode
    if status:
        raise SystemExit(f"{log.read_text()[-4000:]}\ntraining ended with {status}")
    found = json.loads(output.read_text())
    return [Turn(**turn) for turn in found["turns"]], found["calls_s"]


@contextmanager
def terminal() -> Generator[TextIO]:
    """Open a terminal of 40 lines and 120 columns, of which everything is read."""
    end, name = pty.openpty()
    with os.fdopen(name, "w") as stream:
        fcntl.ioctl(stream, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        Thread(target=drain, args=(end,)).start()
        yield stream


def drain(end: int) -> None:
    """Read from a terminal until nobody has it open any more."""
    with suppress(OSError):  # Linux says so by an error
        while os.read(end, 65_536):
            pass
    os.close(end)


if __name__ == "__main__":
    run_program(main)
