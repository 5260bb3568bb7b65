"""Runs a case on as many processes as it asks for."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .case import Case, Row, Section

_TOOLS = Path(__file__).parents[1]


def run_case(case: Case, tokens: Path) -> dict[Section, list[Row]]:
    """Return a case's rows by section.

    Raises:
        SystemExit: If a rank fails; its output is shown.
    """
    with TemporaryDirectory() as name:
        output, log = Path(name) / "rows.json", Path(name) / "log"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={case.ranks}"),
            *("--master-addr=127.0.0.1", f"--master-port={_free_port()}"),
            *("-m", "alignment_bench.worker", case.to_json(), str(tokens), str(output)),
        ]
        with log.open("wb") as sink:
            done = subprocess.run(  # noqa: S603  (our own worker)
                command, env=_environment(case), stdout=sink, stderr=None, check=False
            )
        if done.returncode:
            print(log.read_text()[-6000:], file=sys.stderr)
            raise SystemExit(f"{case.labels()}: expected ranks to end well, found an error")
        return json.loads(output.read_text())


def _environment(case: Case) -> dict[str, str]:
    """Return this process's environment with the cores shared out among the ranks."""
    paths = [str(_TOOLS.parent), str(_TOOLS), os.environ.get("PYTHONPATH", "")]
    threads = max(1, len(os.sched_getaffinity(0)) // case.ranks)
    more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(threads)}
    return {**os.environ, **more}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
