"""Commands on a host while they run: to read, to signal, to wait for."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.processes import all_processes
from tests.support.jobs import Finished

POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """A command that was started on a host.

    Attributes:
        entering: The process of the machine that entered the host, and waits for the command.
        log: What the command says on either stream.
    """

    entering: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """What it has said until now."""
        return self.log.read_text(errors="replace")

    def wait(self, timeout_s: float) -> Finished:
        """Wait for its end."""
        try:
            code = self.entering.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s} s:\n{self.text[-6000:]}") from None
        return Finished(code, self.text)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for something to happen while it runs."""
        ends = time.monotonic() + timeout_s
        while not condition():
            assert self.entering.poll() is None, f"ended before {what}:\n{self.text[-6000:]}"
            assert time.monotonic() < ends, f"{timeout_s} s without {what}:\n{self.text[-6000:]}"
            time.sleep(POLL_S)

    def terminate(self) -> None:
        """Send SIGTERM to the command alone."""
        (command,) = [p for p in all_processes() if p.parent == self.entering.pid]
        os.kill(command.pid, signal.SIGTERM)

    def interrupt(self) -> None:
        """Send SIGINT to its process group, as Ctrl-C in its terminal does."""
        group = [p for p in all_processes() if p.group == self.entering.pid]
        for process in group:
            if process.pid != self.entering.pid:
                os.kill(process.pid, signal.SIGINT)


@contextmanager
def start(command: list[str], env: Mapping[str, str] | None = None) -> Generator[Job]:
    """Start a command that enters a host; what is left of its process group is killed."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Job(process, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
