"""Files that are either whole or absent. Knows nothing of what is in them."""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: Path) -> Generator[BinaryIO]:
    """Open a file for writing that appears under its name only when the block ends without error.

    The bytes go to ``PATH.partial``, are flushed to the disk, and the file is renamed. After an
    error nothing is left.

    Args:
        path: The final name; a file that has it already is replaced. Its folder must exist.

    Yields:
        The binary file.

    Raises:
        OSError: If the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
