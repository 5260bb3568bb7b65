"""A file that one process appends to: all of a piece, or nothing; and that can be cut again."""

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO, final

from megadga.errors import ResumeError


@final
class AppendedFile:
    """A file that grows by whole pieces, whatever the file system does.

    What a failed attempt leaves behind is removed before the next piece is written.

    Args:
        path: The file, appended to by one process; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length: int | None = None
        self._synced = 0

    def append(self, content: bytes) -> None:
        """Append a piece: all of it, or nothing.

        Raises:
            OSError: If it cannot be written; the same piece may be appended again then.
        """
        with self.path.open("ab", buffering=0) as file:
            length = self._drop_torn_piece(file)
            written = 0
            while written < len(content):  # a full disk takes a part
                try:
                    written += file.write(content[written:])
                except OSError as error:
                    error.filename = error.filename or str(self.path)
                    with suppress(OSError):  # else before the next piece
                        file.truncate(length)
                    raise
        self._length = length + len(content)

    def sync(self) -> int:
        """Sync the file to disk; return its length in bytes.

        Raises:
            OSError: If it cannot be synced; can be called again then.
        """
        with self.path.open("ab") as file:
            length = self._drop_torn_piece(file)
            try:
                os.fsync(file.fileno())
            except OSError as error:
                self._write_again()
                error.filename = error.filename or str(self.path)
                raise
        self._synced = length
        return length

    def check_reaches(self, length: int) -> bool:
        """Sync the file; return whether it is longer than at a checkpoint.

        Args:
            length: Its length at the checkpoint that the run resumes from.

        Raises:
            ResumeError: If it is shorter.
        """
        found = self.sync()
        if found < length:
            raise ResumeError(
                f"{self.path}: expected at least {length} bytes, as at the checkpoint, "
                f"found {found}"
            )
        return found > length

    def truncate(self, length: int) -> None:
        """Cut the file to ``length`` bytes, at most those that it has."""
        os.truncate(self.path, length)
        self._length, self._synced = length, min(length, self._synced)

    def _drop_torn_piece(self, file: BinaryIO | FileIO) -> int:
        """Truncate the open file to its complete pieces; return its length."""
        found = file.seek(0, os.SEEK_END)
        if self._length is None or found < self._length:
            self._length = found
        elif found > self._length:
            file.truncate(self._length)
        return self._length

    def _write_again(self) -> None:
        """Write what came since the last sync again: the system may take it for written."""
        with suppress(OSError), self.path.open("r+b", buffering=0) as file:
            file.seek(self._synced)
            content = file.read()
            file.seek(self._synced)
            file.write(content)
