"""Atomic file writing, strict JSON parsing, and collected problems in files."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, final

from megadga.arrays import IntArray
from megadga.errors import ConfigError

MAX_LISTED = 10
"""Problems of one kind per file that are listed individually; the rest are only counted."""


@final
class Problems:
    """Collects lines of the form ``THING: expected X, found Y``, in order."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._counts = Counter[tuple[Path, str]]()

    @property
    def lines(self) -> tuple[str, ...]:
        """All lines, followed by the counts of problems that are not listed."""
        rest = (
            f"{path}: expected no more {kind}, found {count - MAX_LISTED:,}"
            for (path, kind), count in self._counts.items()
            if count > MAX_LISTED
        )
        return (*self._lines, *rest)

    def add(self, line: str) -> None:
        """Add a single problem."""
        self._lines.append(line)

    def add_all(
        self, path: Path, kind: str, positions: IntArray, describe: Callable[[int], str]
    ) -> None:
        """Add problems of one kind, of which the first ``MAX_LISTED`` are listed.

        Args:
            path: The file.
            kind: Description of the kind, in the plural.
            positions: Their positions, shape ``(n,)``.
            describe: Returns the line for one position, without the path.
        """
        room = max(MAX_LISTED - self._counts[path, kind], 0)
        self._lines += [f"{path}: {describe(place)}" for place in positions[:room].tolist()]
        self._counts[path, kind] += positions.size


BYTE_ORDER_MARK = "\ufeff"
"""Written at the start of UTF-8 files by some Windows editors; not part of the text."""


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_strictly(content: str | bytes) -> Any:
    """Parse JSON, with stricter checks than ``json.loads``.

    Raises:
        ValueError: If the text is not valid JSON in UTF-8, is nested too deeply, has a duplicate
            key in an object (``json`` would silently keep the last one), or has a lone surrogate
            in a string, which cannot be encoded.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        found = json.loads(
            text.removeprefix(BYTE_ORDER_MARK), object_pairs_hook=_reject_duplicate_keys
        )
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return found


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} twice in one object")
    return values


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Generator[BinaryIO]:
    """Open a file for writing that gets its final name only if the block ends without error.

    The bytes are written to ``PATH.partial`` and synced to disk, the file is renamed, and its
    folder is synced. After an error nothing is left behind.

    Syncing takes milliseconds. It can be skipped for large numbers of files that can be recreated:
    such a file is complete however the program ends, but after a power failure it may exist with
    missing content, which its reader must detect.

    Args:
        path: The final name; an existing file is replaced. Its folder must exist.
        durable: Whether to sync to disk.

    Yields:
        The binary file.

    Raises:
        OSError: If the file cannot be written; names it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
        if durable:
            flush(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # errors of write() do not name the file
        with suppress(OSError):  # keep the original error
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(folder: Path, work: str) -> Generator[None]:
    """Create a folder if there is none, and lock it against other processes for the block.

    Args:
        folder: It gets a file ``lock``.
        work: What is done in it, as ``build``.

    Raises:
        ConfigError: If another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: expected no other {work} in progress, found one"
            ) from None
        yield


def flush(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to disk.

    Raises:
        OSError: If it does not exist or cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not sync folders: entries are on the server immediately.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def link_file(origin: Path, target: Path) -> int:
    """Link a file, or copy it to another file system; return its size in bytes.

    Args:
        origin: The file.
        target: Its new name; an existing file is replaced.

    Raises:
        OSError: If it cannot be read, or not be written there.
    """
    target.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(origin, target)
        return origin.stat().st_size
    shutil.copyfile(origin, target)
    flush(target)
    return origin.stat().st_size


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
