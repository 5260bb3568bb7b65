"""A lock on a run's folder: one process at a time trains into it.

``OUTPUT/.lock`` is locked by the system (POSIX record locks, which network file systems pass on to
their server) for as long as its owner lives, and says who that is. The system's word is not enough
on its own: some network file systems know no locks, or keep them to one machine, and some go on
holding those of a machine that is gone. So the owner writes a new count into the file every few
seconds; another machine that sees the count move knows that it lives, and that it has ended if the
count stands still.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, final

from megadga.errors import LockedError

FILE_NAME = ".lock"


_BEAT_S = 5.0


_WATCH_BEATS = 6
"""Beats that an owner on another machine may miss before it counts as ended."""


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


_Held = Literal["granted", "denied", "unsupported"]


@dataclass(frozen=True)
class _Owner:
    """Who holds a lock.

    Attributes:
        host: Name of its machine.
        process: Number of the process there.
        started: When the process started, in the kernel's ticks: numbers are used again.
        kernel: What tells a machine's boot from all others.
        since: When it took the lock, for people.
        beat: Counts up as long as it lives.
    """

    host: str
    process: int
    started: str
    kernel: str
    since: str
    beat: int = 0

    def is_same(self, other: "_Owner") -> bool:
        """Return whether both are one process, whatever the beat."""
        return replace(self, beat=0) == replace(other, beat=0)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


@final
class RunLock:
    """Keeps other processes from training into a run's folder, until it is released.

    Args:
        output: The run's folder.
        tell: Takes a line for people, where finding out takes a while.
        beat_s: Seconds between two beats, above 0.
    """

    def __init__(
        self,
        output: Path,
        *,
        tell: Callable[[str], None] = lambda _: None,
        beat_s: float = _BEAT_S,
    ) -> None:
        self._path = output / FILE_NAME
        self._tell = tell
        self._beat_s = beat_s
        self._owner: _Owner | None = None
        self._descriptor = -1
        self._lost: _Owner | None = None
        self._released = threading.Event()
        self._beating: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, for this process; does nothing if it has it.

        The folder must exist. Where the owner is on another machine and does not move, this takes
        some beats.

        Raises:
            LockedError: If another process has it; names its machine and number.
            OSError: If the file cannot be read or written.
        """
        if self._owner is not None:
            return
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take()
        except BaseException:
            os.close(self._descriptor)
            self._owner = None
            raise
        self._beating = threading.Thread(target=self._beat, name="megadga-lock", daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Make sure that the lock is still this process's.

        Raises:
            LockedError: If another has taken it over, as this one did not move for too long, or
                the file is gone.
        """
        assert self._owner is not None
        try:
            replaced = self._path.stat().st_ino != os.fstat(self._descriptor).st_ino
        except OSError:
            replaced = True
        found = self._lost or _read(self._descriptor)
        if replaced or found is None or not found.is_same(self._owner):
            by = "another file" if replaced else str(found or "nobody's")
            raise LockedError(f"{self._path}: expected the lock of this process, found {by}")

    def release(self) -> None:
        """Let go of the lock; does nothing without it. The file stays, and is empty."""
        if self._owner is None:
            return
        self._released.set()
        if self._beating is not None:
            self._beating.join()
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._owner = None

    def _take(self) -> None:
        held, other = self._lock(), _read(self._descriptor)
        if held == "denied" and other is None:  # it has the lock, and has not said so yet
            time.sleep(min(1.0, self._beat_s))
            other = _read(self._descriptor)
        own = _this_process()
        if self._lives(held, other, own):
            raise LockedError(
                f"{self._path.parent}: expected no other process that trains here, "
                f"found {other or 'one that has locked ' + FILE_NAME}"
            )
        if other is not None:
            self._tell(f"{self._path}: found that {other}, has ended: its lock is taken over")
        if held == "denied" and (held := self._lock()) == "denied":
            self._replace_file()
        self._owner = own
        self._write(own)
        if held != "granted":
            # Of several that have come so far at once the last to write wins.
            time.sleep(min(1.0, self._beat_s))
            self.check()

    def _lives(self, held: _Held, other: _Owner | None, own: _Owner) -> bool:
        """Return whether whoever the file names still trains."""
        if other is None:
            return held == "denied"
        if other.kernel != own.kernel:
            return self._moves(other)
        match held:
            case "granted":  # among the processes of one kernel its word is enough
                return False
            case "denied":
                return True
            case "unsupported":
                # In another container processes have other numbers.
                return _started(other.process) == other.started or self._moves(other)

    def _moves(self, other: _Owner) -> bool:
        """Watch the owner's beat from another machine."""
        seconds = self._beat_s * _WATCH_BEATS
        self._tell(f"{self._path}: found {other}; watching for {seconds:.0f} s whether it lives")
        until = time.monotonic() + seconds
        found: _Owner | None = other
        while time.monotonic() < until and found == other:
            time.sleep(self._beat_s / 5)
            found = _read(self._descriptor)
        return found not in (None, other)  # None: it has let go

    def _lock(self) -> _Held:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return "denied"
            if error.errno in _UNSUPPORTED:
                return "unsupported"
            raise
        return "granted"

    def _replace_file(self) -> None:
        """Lock a new file in place of one whose lock a server holds for a machine that is gone."""
        new = self._path.with_name(f"{FILE_NAME}-{socket.gethostname()}-{os.getpid()}")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._lock()
        new.replace(self._path)

    def _beat(self) -> None:
        owner = self._owner
        assert owner is not None
        while not self._released.wait(self._beat_s):
            owner = replace(owner, beat=owner.beat + 1)
            with suppress(OSError):  # the next one may come through
                found = _read(self._descriptor)
                if found is not None and not found.is_same(owner):
                    self._lost = found
                    return
                self._write(owner)

    def _write(self, owner: _Owner) -> None:
        text = json.dumps(asdict(owner)).encode()
        os.pwrite(self._descriptor, text.ljust(512) + b"\n", 0)
        os.fsync(self._descriptor)


def _read(descriptor: int) -> _Owner | None:
    """Read who the file names; None: nobody.

    By the descriptor that is there: to close another one of the same file would end the lock.
    """
    return _parse(os.pread(descriptor, 4096, 0))


def _parse(content: bytes) -> _Owner | None:
    # Not by pydantic: whatever names no owner is nobody's lock, and there is no error to word.
    try:
        return _Owner(**json.loads(content.partition(b"\n")[0]))
    except (ValueError, TypeError, RecursionError):
        return None


def _this_process() -> _Owner:
    process = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    host = socket.gethostname()
    try:
        kernel = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        kernel = host
    return _Owner(host, process, _started(process) or "", kernel, since)


def _started(process: int) -> str | None:
    """Return when a process of this machine started; None: there is none of that number."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return status.rpartition(")")[2].split()[19]
