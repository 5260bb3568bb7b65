"""Whether files that a run reads are still what they were. Knows no run.

Sizes and times are looked at; where they differ, the checksum of the manifest decides: a file may
be copied, or touched, and is the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from megadga.errors import ShardError
from megadga.shards.files import checksum
from megadga.shards.indexed import index_path, tokens_path
from megadga.shards.manifest import ShardEntry


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that a run reads.

    Attributes:
        path: Where it lies now.
        sha256: Its checksum by the manifest, hexadecimal.
    """

    path: Path
    sha256: str


Stamps = Mapping[str, Sequence[int]]
"""Size in bytes and time of change in nanoseconds of each file, by name."""


def files_of(folder: Path, entries: Iterable[ShardEntry], *, name: str) -> dict[str, DataFile]:
    """Return the files of some shards of one folder.

    Args:
        folder: Where they lie.
        entries: What its manifest says of them.
        name: What the files' names begin with, wherever they lie.
    """
    files: dict[str, DataFile] = {}
    for entry in entries:
        prefix = folder / entry.file
        for path, sha256 in (
            (tokens_path(prefix), entry.bin_sha256),
            (index_path(prefix), entry.idx_sha256),
        ):
            files[f"{name}/{path.name}"] = DataFile(path, sha256)
    return files


def check_content(files: Iterable[DataFile]) -> None:
    """Read files and compare their checksums with the manifest's.

    Raises:
        ShardError: If one is not what its manifest says, or cannot be read.
    """
    for file in files:
        try:
            found = checksum(file.path)
        except OSError as error:
            raise ShardError(
                f"{file.path}: expected a readable file, found {error.strerror}"
            ) from None
        if found != file.sha256:
            raise ShardError(
                f"{file.path}: changed since the run has read it: expected the SHA-256 "
                f"{file.sha256[:16]}... by its manifest, found {found[:16]}..."
            )


@final
class DataWatch:
    """Remembers the sizes and times of a run's files, and notices when they change.

    Args:
        files: All of them, by name.

    Raises:
        ShardError: If one is gone.
    """

    def __init__(self, files: Mapping[str, DataFile]) -> None:
        self._files = files
        self._stamps = {name: _stamp(file.path) for name, file in files.items()}

    @property
    def stamps(self) -> Stamps:
        """What is remembered."""
        return {name: list(stamp) for name, stamp in self._stamps.items()}

    def changed_since(self, stamps: Stamps) -> list[str]:
        """Return the names of files whose size or time was another then; new names are none."""
        return [
            name
            for name, stamp in self._stamps.items()
            if name in stamps and tuple(stamps[name]) != stamp
        ]

    def check(self) -> None:
        """Compare sizes and times with what is remembered, and contents where they differ.

        Raises:
            ShardError: If a file is gone, or its content is not what its manifest says any more.
        """
        for name, file in self._files.items():
            stamp = _stamp(file.path)
            if stamp != self._stamps[name]:
                check_content([file])
                self._stamps[name] = stamp


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ShardError(f"{path}: expected a shard's file, found {error.strerror}") from None
    return status.st_size, status.st_mtime_ns
