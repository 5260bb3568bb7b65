"""Check megadga on a GPU: exactness, no trace, resuming, speed, memory, a training run.

On a machine with the project's environment:

    make gpu-check

On a bare machine with Python 3.12 and torch, no network, and the folder of `make gpu-kit`:

    python3 -m pip install -q --no-index --no-deps --target /tmp/site .gpu-kit/wheels/*.whl
    PYTHONPATH=/tmp/site python3 .gpu-kit/gpu_check.py --out gpu --budget-s 480

Stages run in the order of their worth, in processes of their own with a time limit each. After
every measurement OUT/gpu.json is written anew, whole, so that a check that is cut off counts as
far as it came. OUT/gpu.log has what the processes printed, OUT/profile-350m.txt the kernels of a
step. A stage that fails ends no other.
"""

import argparse
import datetime as dt
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from gpu_checks.expected import verdicts
from gpu_checks.plan import STAGES
from gpu_checks.setting import Row, Setting
from gpu_checks.supervising import Record, Supervisor
from megadga.console import run_program, tool_parser

HERE = Path(__file__).absolute().parent
EPILOG = """\
examples:
  python tools/gpu_check.py --out build/gpu --budget-s 480
  python tools/gpu_check.py --out build/gpu --device cpu --quick     # does every stage run?
  python tools/gpu_check.py --out build/gpu --only exactness no_trace

Copy OUT/gpu.json to docs/gpu/NAME.json and say `make gpu-report` to have it in docs/gpu.md. Ends
with code 0 if every stage has passed, else 1; expectations that are missed change no code.
"""


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = tool_parser(__doc__, EPILOG)
    names = [stage.name for stage in STAGES]
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="gets what is found")
    add("--budget-s", type=float, default=480.0, metavar="S", help="in all (%(default)g)")
    add("--device", choices=["cuda", "cpu"], default="cuda", help="(%(default)s)")
    add("--quick", action="store_true", help="tiny sizes: runs everything, measures nothing")
    add("--only", nargs="+", choices=names, default=names, metavar="STAGE", help=", ".join(names))
    add("--shards", type=Path, metavar="FOLDER",
        help="domains/NAME and specific/NAME (the kit's)")  # fmt: skip
    args = parser.parse_args()
    if args.budget_s <= 0.0:
        parser.error(f"--budget-s: expected more than 0 seconds, found {args.budget_s:g}")
    args.shards = args.shards or _kit() / "shards"
    for kind in ("domains", "specific"):
        if not (args.shards / kind).is_dir():
            parser.error(
                f"--shards: expected a folder with {kind}/, found none in {args.shards}; "
                "`make gpu-kit` makes one"
            )
    return args


def _kit() -> Path:
    """Return the kit's folder: where this file is, or beside the folder of tools."""
    return HERE if (HERE / "kit.json").exists() else HERE.parent / ".gpu-kit"


def _head(args: argparse.Namespace) -> Row:
    """Return what a record is of."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        # Folders by their names alone: their places are the machine's own.
        "command": shlex.join(
            ["gpu_check.py", *(Path(each).name if "/" in each else each for each in sys.argv[1:])]
        ),
        "device": args.device,
        "quick": args.quick,
    }


def _commit() -> str:
    """Return the commit that is checked, with ``+`` if files differ from it."""
    if (HERE / "kit.json").exists():
        kit: dict[str, Any] = json.loads((HERE / "kit.json").read_text())
        return kit["commit"]
    git = ("git", "-C", str(HERE), "describe", "--always", "--abbrev=12", "--dirty=+")
    found = subprocess.run(git, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.strip() or "unknown"


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  (a signal handler)
    """Leave by an exception, so that the processes of a stage are ended."""
    raise SystemExit(128 + number)


def main() -> None:
    """Run the stages, keep the record, and print what was met and what was missed."""
    args = parse()
    signal.signal(signal.SIGTERM, _end)
    started = time.monotonic()
    out: Path = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "gpu.log"
    log.write_text("")
    record = Record(out / "gpu.json", _head(args))
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(args.device, args.quick, args.shards.absolute(), out, Path(scratch))
        supervisor = Supervisor(
            setting,
            record,
            log=log,
            ends_at=started + args.budget_s,
            report=lambda line: print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True),
        )
        stages = [stage for stage in STAGES if stage.name in args.only]
        if args.device == "cpu":  # limits, and what stages leave behind, are a GPU's
            stages = [replace(s, limit_s=args.budget_s, ends_processes=False) for s in stages]
        supervisor.run(stages)
    for each in verdicts(record.rows):
        word = {None: "no measurement", True: "met", False: "MISSED"}[each["met"]]
        found = "" if each["found"] is None else f", found {each['found']:.3g}"
        print(f"{word:>14}  {each['what']}: {each['relation']} {each['limit']:g}{found}")
    print(record.path)
    sys.exit(any(stage["status"] != "passed" for stage in record.stages.values()))


if __name__ == "__main__":
    run_program(main)
