"""File systems that fail, and runs on them that are watched while they go on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, final

import pytest

from tests.support.ranks import environments_of_ranks, own_session, rank_environment

_SOURCE = Path(__file__).with_name("faulty.c")
_TIMEOUT_S = 240.0


@final
class FaultyCalls:
    """Calls of the C library that fail or wait in the ranks of a run; see ``faulty.c``.

    Args:
        folder: Where the library is compiled.
    """

    def __init__(self, folder: Path) -> None:
        library = folder / "faulty.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        self._control = folder / "faulty"
        self.variables = {"LD_PRELOAD": str(library), "MEGADGA_TEST_FAULTY": str(self._control)}
        """Environment of the ranks."""

    def set(self, *lines: str) -> None:
        """Have calls fail from now on, and no others: ``CALL ERRNO RANK PART``."""
        new = self._control.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.replace(self._control)


@contextmanager
def memory_file_system(folder: Path, options: str) -> Generator[Callable[[str], None]]:
    """Mount a file system in memory; yield what changes its options. Skips where it may not."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")

    def remount(changed: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{changed}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@final
class RunningRanks:
    """Two ranks of `megadga train run.yaml` in a folder.

    Args:
        processes: The ranks.
        log: What they write.
    """

    def __init__(self, processes: Sequence[subprocess.Popen[Any]], log: Path) -> None:
        self.processes = processes
        self._log = log

    @property
    def text(self) -> str:
        """What the ranks have written so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened while the ranks run."""
        until = time.monotonic() + _TIMEOUT_S
        while not condition():
            assert [each.poll() for each in self.processes] == [None, None], self.text
            assert time.monotonic() < until, self.text
            time.sleep(0.05)

    def wait_for_line(self, *parts: str) -> str:
        """Wait for a line that has all parts; return it."""
        lines: list[str] = []

        def found() -> bool:
            lines[:] = [
                line for line in self.text.splitlines() if all(part in line for part in parts)
            ]
            return bool(lines)

        self.wait_for(found)
        return lines[0]

    def end(self) -> list[int]:
        """Wait for the end; return the exit codes."""
        return [each.wait(_TIMEOUT_S) for each in self.processes]


@contextmanager
def running(folder: Path, *overrides: str, **variables: str) -> Generator[RunningRanks]:
    """Train a run on two ranks."""
    arguments = ["train", "run.yaml", *(f"--set={override}" for override in overrides)]
    log = folder / "log.txt"
    with ExitStack() as stack, log.open("wb") as output:
        yield RunningRanks(
            [
                stack.enter_context(
                    own_session(
                        [sys.executable, "-m", "megadga.cli", *arguments],
                        cwd=folder,
                        env=rank_environment(**environment, **variables),
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
                for environment in environments_of_ranks(2)
            ],
            log,
        )


def interrupt(run: RunningRanks, number: int) -> None:
    """Send a signal to every rank."""
    for process in run.processes:
        os.kill(process.pid, number)
