"""Writes one rank's files of a checkpoint, with their checksums."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast, final

from megadga.data.files import flush
from megadga.probes.saving import PendingFile
from megadga.run_folder.checkpoints import SavedFile
from megadga.train.waiting import Amount


@final
class CheckpointWriter:
    """Writes files, syncs them to disk, and drops their content; what is written stays written.

    Args:
        folder: The folder of all checkpoints.
        files: This rank's files.
    """

    def __init__(self, folder: Path, files: Sequence[PendingFile]) -> None:
        self._folder = folder
        self._pending = list(files)
        self._saved: dict[str, SavedFile] = {}
        self._total = sum(file.num_bytes for file in files)
        self._done = 0
        self._in_file = 0

    def amount(self) -> Amount:
        """Return how much is written."""
        return Amount(min(self._done + self._in_file, self._total), self._total)

    def write(self) -> dict[str, SavedFile]:
        """Write the files that are not written yet; return all by their names.

        An attempt that fails leaves no part of a file behind, and the next one begins with that
        file.

        Raises:
            OSError: If one cannot be written; names it.
        """
        while self._pending:
            file = self._pending[0]
            self._in_file = 0
            self._saved[file.name] = self._write(file)
            self._done, self._in_file = self._done + file.num_bytes, 0
            del self._pending[0]
        for folder in sorted({(self._folder / name).parent for name in self._saved}):
            flush(folder)
        return dict(self._saved)

    def _write(self, file: PendingFile) -> SavedFile:
        path = self._folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as target:
                sink = _CountedFile(target, self._count)
                try:
                    file.write(cast("BinaryIO", sink))
                finally:
                    sink.check()  # torch words it in another way
                target.flush()
                os.fsync(target.fileno())
            if file.executable:
                path.chmod(path.stat().st_mode | 0o111)
        except BaseException as error:
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # errors of write() do not name the file
            with suppress(OSError):  # keep the original error
                path.unlink(missing_ok=True)
            raise
        return SavedFile(sink.size, sink.digest.hexdigest())

    def _count(self, size: int) -> None:
        self._in_file += size


@final
class _CountedFile:
    """A file opened for writing that computes the checksum of what is written into it."""

    def __init__(self, target: BinaryIO, count: Callable[[int], None]) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._target = target
        self._count = count
        self._error: OSError | None = None

    def write(self, content: bytes) -> int:
        """Write all of ``content``."""
        self.check()
        try:
            self._target.write(content)
        except OSError as error:
            self._error = error
            raise
        size = memoryview(content).nbytes
        self.digest.update(content)
        self.size += size
        self._count(size)
        return size

    def flush(self) -> None:
        """Flush to the operating system."""
        self._target.flush()

    def check(self) -> None:
        """Raise the first error of a write, whatever its caller made of it."""
        if self._error is not None:
            raise self._error
