"""One host's side of a conversation, run there as ``python -m megadga.doctor.gather NAME``.

A line of JSON asks (``Request``) and one answers (``HostReport``). Then each line that names files
is answered by those of them that can be read here. At the end of the input its own is removed.
"""

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from megadga.cluster.operators import SHARED_MEMORY, missing_ops, op_locks
from megadga.console import run_program
from megadga.doctor.machine import (
    address_of,
    count_devices,
    interface_to,
    port_error,
)
from megadga.doctor.reports import ANSWER, HostReport, Request
from megadga.doctor.software import own_software

_OPS_OF_KIND = {"cores": (SHARED_MEMORY,), "accelerators": ()}
"""Operators that every run needs, by what it trains on."""


def answer(host: str, asked: IO[str], answers: IO[str]) -> None:
    """Hold the conversation.

    Args:
        host: What this host is called by those who ask.
        asked: Lines that come in.
        answers: Takes lines that go out.
    """
    request = Request.of_json(json.loads(asked.readline()))
    os.environ.update(request.environment)
    folder = Path(request.folder)
    with _left_in(folder / request.mark) as error:
        _say(answers, report(host, request, folder_error=error).as_json())
        for line in asked:
            _say(answers, [name for name in json.loads(line) if _readable(folder / name)])


def report(host: str, request: Request, *, folder_error: str) -> HostReport:
    """Say what is asked of this host."""
    devices, kind = count_devices()
    ops = (*request.ops, *_OPS_OF_KIND[kind])
    return HostReport(
        host=host,
        software=own_software(),
        devices=devices,
        kind=kind,
        folder_error=folder_error,
        port_error="" if request.port is None else port_error(request.port),
        master_address=address_of(request.master),
        interface=interface_to(request.master),
        ops_missing=missing_ops(ops, os.environ),
        op_locks=op_locks(ops, os.environ),
    )


@contextmanager
def _left_in(path: Path) -> Generator[str]:
    """Have a file for a while; yield why there is none, or an empty string."""
    try:
        path.write_text(path.name, encoding="utf-8")
    except OSError as error:
        yield str(error.strerror).lower()
        return
    try:
        yield ""
    finally:
        with suppress(OSError):
            path.unlink()


def _readable(path: Path) -> bool:
    # By its own name: the listing of a folder on a network may be half a minute old.
    try:
        return path.read_text(encoding="utf-8") == path.name
    except OSError:
        return False


def _say(answers: IO[str], value: object) -> None:
    answers.write(f"{ANSWER}{json.dumps(value)}\n")
    answers.flush()


if __name__ == "__main__":
    run_program(lambda: answer(sys.argv[1], sys.stdin, sys.stdout))
