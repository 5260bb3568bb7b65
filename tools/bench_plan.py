"""Compare what `megadga plan` predicts with engines that train on this CPU.

Memory are bytes of live tensors, communication the bytes of collectives. Seconds are predicted
with constants that are measured in turn with the steps: what else the machine does slows both.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

from megadga.console import run_program, tool_parser
from plan_bench.case import Case, Row, to_json
from plan_bench.cases import PARTITIONED, REPLICATED, timed

_ROOT = Path(__file__).parents[1]
EPILOG = """\
example:
  python tools/bench_plan.py --ranks 1 2 --rounds 5

Takes about ten minutes on two cores; --rounds 0 leaves seconds out, and takes two.
"""


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--ranks", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="processes (1 2 4)")
    add("--rounds", type=int, default=5, metavar="N", help="steps that are timed (5)")
    add("--output", type=Path, default=Path("build/bench/plan.json"), metavar="FILE",
        help="(build/bench/plan.json)")  # fmt: skip
    return parser.parse_args()


def run_cases(cases: Sequence[Case], ranks: int) -> list[Row]:
    """Return a row a case.

    Raises:
        SystemExit: If a rank fails; its output is shown.
    """
    with TemporaryDirectory() as name:
        output, log = Path(name) / "rows.json", Path(name) / "log"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"),
            *("--standalone", "-m", "tools.plan_bench.worker", str(output), to_json(cases)),
        ]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
        with log.open("wb") as sink:
            done = subprocess.run(  # noqa: S603  (our own worker)
                command, env=environment, stdout=sink, stderr=sink, cwd=_ROOT, check=False
            )
        if done.returncode:
            print(log.read_text()[-6000:], file=sys.stderr)
            raise SystemExit(f"{ranks} ranks: expected ranks to end well, found an error")
        return json.loads(output.read_text())


def table(rows: Sequence[Row]) -> str:
    """Return predicted over measured, a line a case."""
    lines = [
        (
            row["ranks"],
            row["case"]["preset"] + (", transformers" if row["case"]["transformers"] else ""),
            row["case"]["stage"],
            row["case"]["precision"],
            "yes" if row["case"]["checkpointing"] else "no",
            *(f"{row[key][1] / row[key][0]:.3f}" for key in ("resident_bytes", "peak_bytes")),
            f"{row['seconds']['ratio']:.2f}" if "seconds" in row else "",
        )
        for row in rows
    ]
    header = (
        *("ranks", "model", "ZeRO", "precision", "checkpointing"),
        *("resident", "peak", "seconds"),
    )
    return tabulate(lines, headers=header, disable_numparse=True)


def main() -> None:
    """Measure every case, print the table, write the rows."""
    options = parse()
    groups: list[tuple[Case, ...]] = [REPLICATED, PARTITIONED]
    if options.rounds:
        groups += timed(options.rounds)
    rows: list[Row] = []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for ranks in options.ranks:
        for cases in groups:
            rows += run_cases(cases, ranks)
            options.output.write_text(json.dumps(rows, indent=1))  # of long ones, what there is
    print("predicted over measured\n" + table(rows))
    print(options.output)


if __name__ == "__main__":
    run_program(main)
