"""A lock on a run's folder, so that one process at a time trains into it.

``OUTPUT/.lock`` is locked by the operating system (POSIX record locks, which network file systems
forward to their server) while its owner lives, and names the owner. OS locks alone are not
sufficient: some network file systems do not support locks or keep them local to a machine, and
some keep the locks of a machine that has crashed. So the owner also writes a heartbeat counter
into the file every few seconds. Another machine considers the owner alive if the counter advances,
and ended if it does not.
"""

import errno
import fcntl
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, final

from megadga.errors import LockedError

FILE_NAME = ".lock"


_HEARTBEAT_S = 5.0


_MAX_MISSED_HEARTBEATS = 6
"""Heartbeats that an owner on another machine may miss before it is considered ended."""


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


_LockResult = Literal["granted", "denied", "unsupported"]


@dataclass(frozen=True)
class _Owner:
    """The process that holds a lock.

    Attributes:
        host: Name of its machine.
        process: Its process id.
        started: Start time of the process in kernel ticks, as process ids are reused.
        boot_id: Identifies the machine and its boot.
        since: Time of acquisition, for messages.
        heartbeat: Counter that advances while the process lives.
    """

    host: str
    process: int
    started: str
    boot_id: str
    since: str
    heartbeat: int = 0

    def is_same(self, other: "_Owner") -> bool:
        """Return whether both are the same process, ignoring the heartbeat."""
        return replace(self, heartbeat=0) == replace(other, heartbeat=0)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


@final
class RunLock:
    """Prevents other processes from training into a run's folder until it is released.

    Args:
        output: The run's folder.
        report: Called with a line for the user when acquiring takes a while.
        heartbeat_s: Seconds between heartbeats, above 0.
    """

    def __init__(
        self,
        output: Path,
        *,
        report: Callable[[str], None] = lambda _: None,
        heartbeat_s: float = _HEARTBEAT_S,
    ) -> None:
        self._path = output / FILE_NAME
        self._report = report
        self._heartbeat_s = heartbeat_s
        self._owner: _Owner | None = None
        self._descriptor = -1
        self._new_owner: _Owner | None = None
        self._released = threading.Event()
        self._heartbeat_thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Acquire the lock for this process; a no-op if it already holds it.

        The folder must exist. If the owner is on another machine, this waits for several
        heartbeats.

        Raises:
            LockedError: If another process holds it; names its machine and process id.
            OSError: If the file cannot be read or written.
        """
        if self._owner is not None:
            return
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._acquire()
        except BaseException:
            os.close(self._descriptor)
            self._owner = None
            raise
        self._heartbeat_thread = threading.Thread(
            target=self._write_heartbeats, name="megadga-lock", daemon=True
        )
        self._heartbeat_thread.start()

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            LockedError: If another process has taken it over, as heartbeats were missing for too
                long, or the file was removed.
        """
        assert self._owner is not None
        try:
            replaced = self._path.stat().st_ino != os.fstat(self._descriptor).st_ino
        except OSError:
            replaced = True
        found = self._new_owner or _read(self._descriptor)
        if replaced or found is None or not found.is_same(self._owner):
            by = "another file" if replaced else str(found or "no owner")
            raise LockedError(f"{self._path}: expected the lock of this process, found {by}")

    def release(self) -> None:
        """Release the lock; a no-op without it. The file remains, empty."""
        if self._owner is None:
            return
        self._released.set()
        if self._heartbeat_thread is not None:
            self._heartbeat_thread.join()
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._owner = None

    def _acquire(self) -> None:
        held, other = self._lock(), _read(self._descriptor)
        if held == "denied" and other is None:  # locked, but its owner is not written yet
            time.sleep(min(1.0, self._heartbeat_s))
            other = _read(self._descriptor)
        own = _this_process()
        if self._is_alive(held, other, own):
            raise LockedError(
                f"{self._path.parent}: expected no other process that trains here, "
                f"found {other or 'one that holds ' + FILE_NAME}"
            )
        if other is not None:
            self._report(f"{self._path}: {other}, has ended: taking over its lock")
        if held == "denied" and (held := self._lock()) == "denied":
            self._replace_file()
        self._owner = own
        self._write(own)
        if held != "granted":
            # If several processes get here at once, the last one to write wins.
            time.sleep(min(1.0, self._heartbeat_s))
            self.check()

    def _is_alive(self, held: _LockResult, other: _Owner | None, own: _Owner) -> bool:
        """Return whether the owner named in the file is still alive."""
        if other is None:
            return held == "denied"
        if other.boot_id != own.boot_id:
            return self._heartbeat_advances(other)
        match held:
            case "granted":  # between processes of one kernel the OS lock is reliable
                return False
            case "denied":
                return True
            case "unsupported":
                # Process ids differ between containers, so the id alone is not conclusive.
                return _started(other.process) == other.started or self._heartbeat_advances(other)

    def _heartbeat_advances(self, other: _Owner) -> bool:
        """Return whether the heartbeat of an owner on another machine advances."""
        seconds = self._heartbeat_s * _MAX_MISSED_HEARTBEATS
        self._report(f"{self._path}: found {other}; watching its heartbeat for {seconds:.0f} s")
        until = time.monotonic() + seconds
        found: _Owner | None = other
        while time.monotonic() < until and found == other:
            time.sleep(self._heartbeat_s / 5)
            found = _read(self._descriptor)
        return found not in (None, other)  # None: it has released the lock

    def _lock(self) -> _LockResult:
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
        """Replace a file that the server keeps locked for a crashed machine by a new one."""
        new = self._path.with_name(f"{FILE_NAME}-{socket.gethostname()}-{os.getpid()}")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._lock()
        new.replace(self._path)

    def _write_heartbeats(self) -> None:
        owner = self._owner
        assert owner is not None
        while not self._released.wait(self._heartbeat_s):
            owner = replace(owner, heartbeat=owner.heartbeat + 1)
            with suppress(OSError):  # the next heartbeat may succeed
                found = _read(self._descriptor)
                if found is not None and not found.is_same(owner):
                    self._new_owner = found
                    return
                self._write(owner)

    def _write(self, owner: _Owner) -> None:
        text = json.dumps(asdict(owner)).encode()
        os.pwrite(self._descriptor, text.ljust(512) + b"\n", 0)
        os.fsync(self._descriptor)


def living_owner(output: Path) -> str | None:
    """Return who trains in a run's folder, as far as this machine can tell at once; else None.

    The lock is only looked at. An owner on another machine is taken at its word: whether it lives
    would take a minute to find out.
    """
    try:
        descriptor = os.open(output / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        owner = _read(descriptor)
        if owner is None:
            return None
        if owner.boot_id != _this_process().boot_id or _is_locked(descriptor):
            return str(owner)
        return str(owner) if _started(owner.process) == owner.started else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Return whether another process holds the operating system's lock of a file."""
    layout = "hhqqi4x"  # struct flock: type, whence, start, length, process
    wanted = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted)
    except OSError:  # not supported there
        return False
    return struct.unpack(layout, found)[0] != fcntl.F_UNLCK


def _read(descriptor: int) -> _Owner | None:
    """Read the owner named in the file, None if there is none.

    Uses the existing descriptor, as closing another one of the same file would drop the lock.
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
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot_id = host
    return _Owner(host, process, _started(process) or "", boot_id, since)


def _started(process: int) -> str | None:
    """Return the start time of a process on this machine, None if it does not exist."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return status.rpartition(")")[2].split()[19]
