"""Atomic file writing, strict JSON, and problems found in files."""

import errno
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, final

from megadga.arrays import IntArray

MAX_LISTED = 10
"""Problems of one kind in one file that get a line each; how many more there are is one line."""


@final
class Problems:
    """Lines of the form ``THING: expected X, found Y``, in the order in which they were found."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._counts = Counter[tuple[Path, str]]()

    @property
    def lines(self) -> tuple[str, ...]:
        """All lines, those that say how many more there are at the end."""
        rest = (
            f"{path}: expected no more {kind}, found {count - MAX_LISTED:,}"
            for (path, kind), count in self._counts.items()
            if count > MAX_LISTED
        )
        return (*self._lines, *rest)

    def add(self, line: str) -> None:
        """Add a problem of a kind of its own."""
        self._lines.append(line)

    def add_all(
        self, path: Path, kind: str, places: IntArray, describe: Callable[[int], str]
    ) -> None:
        """Add problems of one kind, of which there may be very many.

        Args:
            path: The file.
            kind: What they are, in the plural.
            places: Where they are, shape ``(n,)``.
            describe: Gives the line of one place, without the path.
        """
        room = max(MAX_LISTED - self._counts[path, kind], 0)
        self._lines += [f"{path}: {describe(place)}" for place in places[:room].tolist()]
        self._counts[path, kind] += places.size


BYTE_ORDER_MARK = "\ufeff"
"""What editors of Windows write in front of UTF-8; no part of the text."""


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_strictly(content: str | bytes) -> Any:
    """Return what JSON holds.

    Raises:
        ValueError: If it is none, in another encoding than UTF-8, nested too deeply, an object
            has a name twice, of which ``json`` would keep the last one without a word, or a string
            has half a surrogate pair, which no file and no terminal takes.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        found = json.loads(text.removeprefix(BYTE_ORDER_MARK), object_pairs_hook=_each_once)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} twice in one object")
    return values


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Generator[BinaryIO]:
    """Open a file for writing that appears under its name only when the block ends without error.

    The bytes go to ``PATH.partial``, are flushed to the disk, the file is renamed, and its folder
    is flushed. After an error nothing is left.

    Flushing takes milliseconds. Where very many files are written that can be made again, it may
    be left out: then a file is whole after any end of the program, but after a power cut it may
    have its name and not its bytes, and whoever reads it must find that out.

    Args:
        path: The final name; a file that has it already is replaced. Its folder must exist.
        durable: Whether it is flushed to the disk.

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
            error.filename = str(path)  # writing to an open file does not say which it is
        with suppress(OSError):  # what matters is the error itself
            partial.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Bring a file's bytes to the disk, or the names in a folder.

    Raises:
        OSError: If it is not there, or cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems flush no folders: their names are on the server at once.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
