"""Supervises a group of processes: requests to stop, time-outs, and guaranteed clean-up.

``python -m megadga.launch.supervision COMMAND ...`` is its remote part over ssh: it runs a
command that ends when the process that started it has ended or is disconnected.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self, final

import psutil

from megadga.console import run_program
from megadga.launch.operators import remove_own_locks
from megadga.launch.ranks import rank_for_messages
from megadga.terminal import release_rows


@contextmanager
def signal_handler(
    numbers: Sequence[signal.Signals], take: Callable[[int, FrameType | None], None]
) -> Generator[None]:
    """Install a handler for signals and restore the previous ones at the end.

    Only on the main thread, as required by Python.
    """
    before: dict[signal.Signals, Any] = {}
    try:
        before |= {number: signal.signal(number, take) for number in numbers}
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def killed_after(seconds: float) -> Generator[None]:
    """Have the kernel end this process (SIGALRM) if a block takes longer.

    For code that knows no time-out and may not let Python run. Where SIGALRM has a handler, it is
    somebody else's, and there is no limit.

    Args:
        seconds: Above 0.
    """
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


STOP_FILE = "MEGADGA_STOP_FILE"
"""Variable with the path of a file by which a launcher requests a stop, on any machine."""


STOPPED = 75
"""Exit code of a run that was asked to stop and has saved: EX_TEMPFAIL, start it again."""


LOOK_INTERVAL_S = 1.0
"""Polling interval of the stop file in seconds; it may be on a network file system."""


_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@final
class StopSignal:
    """Records requests to stop, so that the process can stop at the end of a step.

    While it is entered, SIGTERM, SIGUSR1 and SIGINT only set ``requested``; a second SIGINT ends
    the process immediately. Enter it on the main thread before slow imports: schedulers send
    signals up to a minute early.

    Args:
        file: File whose existence is a request as well, polled every ``LOOK_INTERVAL_S``; None:
            signals only.
        before_end: Called before a second SIGINT ends the process.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        before_end: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._before_end = before_end
        self._clock = clock
        self._look_at = clock()
        self._signalled = False
        self._interrupted = False
        self._taking = ExitStack()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return an instance that uses the launcher's stop file, if there is one.

        Only rank 0 polls it; the other ranks are informed in the next step.
        """
        path = environment.get(STOP_FILE)
        return cls(
            None if path is None or rank_for_messages(environment) else Path(path),
            before_end=lambda: _let_go(environment),
        )

    def requested(self) -> bool:
        """Return whether this process was asked to stop."""
        if not self._signalled and self._file is not None and self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_INTERVAL_S
            self._signalled = self._file.exists()
        return self._signalled

    def __enter__(self) -> Self:
        self._taking.enter_context(signal_handler(_SIGNALS, self._take))
        return self

    def __exit__(self, *exception: object) -> None:
        self._taking.close()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            self._before_end()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._signalled = True


def _let_go(environment: Mapping[str, str]) -> None:
    """Release what this process holds and its end would not: locks, rows of the terminal."""
    remove_own_locks(environment)
    release_rows(sys.stderr, environment)


_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


_POLL_S = 0.1


PULSE_S = 5.0
"""Seconds between the lines that show a process that its supervisor is alive."""


_PR_SET_PDEATHSIG = 1


_PRCTL: Any = ctypes.CDLL(None, use_errno=True).prctl
"""Loaded here, as a forked child must not load libraries."""


@dataclass(frozen=True)
class Command:
    """One process to start.

    Attributes:
        arguments: Program and arguments, run without a shell.
        environment: All its variables.
        folder: Working directory.
        input: Initial standard input, followed by an empty line every ``PULSE_S`` as long as this
            process lives and the connection is open; None: no input.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    input: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Timeouts:
    """Time-outs of supervised processes, in seconds.

    Attributes:
        stop_s: From the request to stop until they are ended; the time to save.
        straggle_s: From the first failure until the other processes are ended.
        end_s: From ending until they are killed.
        limit_s: Time limit after which they are requested to stop; None: no limit.
    """

    stop_s: float
    straggle_s: float = 15.0
    end_s: float = 10.0
    limit_s: float | None = None


@dataclass(frozen=True)
class Ended:
    """Outcome of supervised processes.

    Attributes:
        code: The exit code of the first that ended with an error, 128 + N for signal N; 0 if none.
        asked: Whether they were requested to stop.
    """

    code: int
    asked: bool


def terminate(processes: Sequence[int]) -> None:
    """Send SIGTERM to processes of this machine: ranks then save and exit."""
    for process in processes:
        os.kill(process, signal.SIGTERM)


def supervise(
    commands: Sequence[Command],
    *,
    timeouts: Timeouts,
    ask_to_stop: Callable[[Sequence[int]], None] = terminate,
    poll_stop: Callable[[], float | None] = lambda: None,
    end: Command | None = None,
) -> Ended:
    """Run processes to their end; none is left when this returns or raises.

    On SIGTERM, SIGINT, SIGUSR1 or SIGHUP they are requested to stop; after a second SIGINT, or
    when the time to save is over, they are ended. If this process is killed, they get SIGTERM.

    Args:
        commands: At least one.
        timeouts: Time-outs.
        ask_to_stop: Called once, with the process ids.
        poll_stop: Polled for requests to stop without a signal: returns the time to save, in
            seconds, or None.
        end: Command that ends processes that do not stop; None: SIGTERM.
    """
    requests = _StopRequests(poll_stop)
    with signal_handler(_FORWARDED, requests.take):
        processes: list[subprocess.Popen[bytes]] = []
        try:
            processes.extend(map(_start, commands))
            return _watch(processes, requests, ask_to_stop, timeouts, _Pulse(processes))
        finally:
            _end(processes, timeouts.end_s, end)


@final
class _StopRequests:
    """Records signals that request a stop.

    Args:
        poll_stop: Further source of requests.
    """

    def __init__(self, poll_stop: Callable[[], float | None]) -> None:
        self.interrupts = 0
        self._poll_stop = poll_stop
        self._signalled = False

    def stop_s(self, after_signal: float) -> float | None:
        """Return the time to save in seconds, None without a request."""
        return after_signal if self._signalled else self._poll_stop()

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Record a signal."""
        self._signalled = True
        self.interrupts += number == signal.SIGINT


@final
class _Pulse:
    """Sends a line at intervals to processes with an input, to show that this process is alive.

    Args:
        processes: All processes.
    """

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._inputs = [each.stdin.fileno() for each in processes if each.stdin is not None]
        for descriptor in self._inputs:
            os.set_blocking(descriptor, False)
        self._due = 0.0

    def beat(self, now: float) -> None:
        """Send a line if it is due."""
        if now < self._due:
            return
        self._due = now + PULSE_S
        for descriptor in self._inputs:
            with suppress(OSError):  # it has ended, or its connection is stuck
                os.write(descriptor, b"\n")


def _watch(
    processes: Sequence[subprocess.Popen[bytes]],
    requests: _StopRequests,
    ask_to_stop: Callable[[Sequence[int]], None],
    timeouts: Timeouts,
    pulse: _Pulse,
) -> Ended:
    """Wait until all processes have ended, or a time-out requires ending them."""
    limit = None if timeouts.limit_s is None else time.monotonic() + timeouts.limit_s
    end_at: float | None = None
    asked = False
    while running := [process for process in processes if _exit_code(process) is None]:
        now = time.monotonic()
        pulse.beat(now)
        stop_s = requests.stop_s(timeouts.stop_s)
        if stop_s is None and limit is not None and now >= limit:
            stop_s = timeouts.stop_s
        if not asked and stop_s is not None:
            asked = True
            end_at = now + stop_s
            _tell(f"asked to stop: the run has {stop_s:.0f} s to save")
            ask_to_stop([process.pid for process in running])
        if end_at is None and _first_error(processes):
            end_at = now + timeouts.straggle_s
        if requests.interrupts > 1 or (end_at is not None and now >= end_at):
            break
        time.sleep(_POLL_S)
    code = _first_error(processes) or (128 + signal.SIGTERM if running else 0)
    return Ended(code, asked)


def _first_error(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    return next((code for process in processes if (code := _exit_code(process))), 0)


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a process, None while it runs.

    Does not reap it, so that its process and session ids are not reused before ``_end``.
    """
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    died = ended.si_code != os.CLD_EXITED
    return 128 + ended.si_status if died else ended.si_status


def _start(command: Command) -> subprocess.Popen[bytes]:
    """Start a process in a new session, so that a terminal's Ctrl-C reaches only this process."""
    parent = os.getpid()
    process = subprocess.Popen(  # noqa: S603  (no shell)
        command.arguments,
        env=dict(command.environment),
        cwd=command.folder,
        stdin=subprocess.DEVNULL if command.input is None else subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  (there are no threads here)
    )
    if command.input is not None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; its exit code is reported
            process.stdin.write(command.input)
            process.stdin.flush()
    return process


def die_with_parent(parent: int) -> None:
    """Make the kernel send SIGTERM to this process when its parent ends."""
    _PRCTL(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)  # the parent has already ended


def _end(processes: Sequence[subprocess.Popen[bytes]], end_s: float, end: Command | None) -> None:
    """End every process and its descendants, with SIGKILL after the time-out."""
    if end is None:
        _signal_all(processes, signal.SIGTERM)
    elif any(_exit_code(process) is None for process in processes):
        with suppress(subprocess.TimeoutExpired, OSError):  # they are killed below
            subprocess.run(  # noqa: S603  (no shell)
                end.arguments,
                env=dict(end.environment),
                cwd=end.folder,
                check=False,
                timeout=end_s,
            )
    until = time.monotonic() + end_s
    while time.monotonic() < until and any(_exit_code(each) is None for each in processes):
        time.sleep(_POLL_S)
    descendants = [each for process in processes for each in _descendants(process.pid)]
    _signal_all(processes, signal.SIGKILL)
    for each in descendants:  # also those in sessions of their own
        with suppress(psutil.NoSuchProcess):
            each.kill()
    for process in processes:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _descendants(process: int) -> list[psutil.Process]:
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal_all(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        os.killpg(process.pid, number)  # its id is valid until it is reaped


def _tell(message: str) -> None:
    with suppress(OSError):  # the terminal may be closed
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)


_REMOTE = Timeouts(stop_s=35.0, end_s=10.0)
"""An agent of torchrun gives its ranks 30 s to end."""


_CUT_OFF_S = 5.0
"""For the agent to end, where ranks cannot save: they do not reach the others."""


SILENCE_S = 4 * PULSE_S
"""After which the connection counts as lost: sshd would hold it for hours."""


_AT_ONCE = 4096


def run_watched(arguments: Sequence[str], *, silence_s: float = SILENCE_S) -> int:
    """Run a command until it ends or nobody watches it any more; return its exit code.

    Args:
        arguments: The command.
        silence_s: Seconds without a line on standard input after which nobody does.
    """
    last = time.monotonic()

    def stop_s() -> float | None:
        """Return the seconds to stop in, if the input is over or silent; None: it is not."""
        nonlocal last
        now = time.monotonic()
        if select.select([sys.stdin], [], [], 0.0)[0]:
            if not os.read(sys.stdin.fileno(), _AT_ONCE):
                return _REMOTE.stop_s
            last = now
        return _CUT_OFF_S if now - last > silence_s else None

    command = Command(tuple(arguments), os.environ, Path.cwd())
    return supervise([command], timeouts=_REMOTE, poll_stop=stop_s).code


if __name__ == "__main__":
    run_program(lambda: run_watched(sys.argv[1:]))
