"""Files that are either whole or absent. Knows nothing of what is in them."""

import errno
import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Generator[BinaryIO]:
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
