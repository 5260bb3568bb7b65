"""Checkpoints in a run's folder: headers with checksums, the latest one, pruning.

``FOLDER/latest`` names the checkpoint that a run continues from; ``FOLDER/step-00000500`` is one,
and ``megadga.json`` in it its header. The header is written last and lists every file with its
SHA-256: a folder without one was never completed.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import ConfigDict, TypeAdapter

from megadga.config.run import other_run
from megadga.data.files import atomic_write, checksum, flush, parse_strictly
from megadga.data.records import Text, Whole, parse_record
from megadga.errors import ResumeError

_HEADER = "megadga.json"


_CHECKSUM = "sha256"


_NAMED = 8
"""Differences that an error names: two runs over other domains differ in thousands."""


@dataclass(frozen=True)
class SavedFile:
    """What a header says of one file of its checkpoint.

    Attributes:
        bytes: Its size.
        sha256: Its checksum, hexadecimal.
    """

    bytes: Whole
    sha256: Text


@dataclass(frozen=True)
class CheckpointHeader:
    """What can be compared before a checkpoint is loaded.

    Attributes:
        step: Optimizer steps completed.
        metrics_length: Bytes that the metrics file had.
        identity: What the run is, as nested mappings of JSON values. A run may continue from the
            checkpoint if its own identity is equal.
        files: Everything else in the checkpoint's folder, by path relative to it.
        data: Size in bytes and time of change in nanoseconds of every file of tokens that the run
            reads, by the name that the run has for it.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    step: Whole
    metrics_length: Whole
    identity: Mapping[str, Any]
    files: Mapping[str, SavedFile]
    data: Mapping[str, Sequence[Whole]] = field(default_factory=dict[str, Sequence[int]])


def header_path(checkpoint: Path) -> Path:
    """Return where a checkpoint has its header."""
    return checkpoint / _HEADER


def write_header(checkpoint: Path, header: CheckpointHeader) -> None:
    """Write the header into a checkpoint's folder, whole or not at all; flushed to the disk.

    Raises:
        OSError: If it cannot be written.
    """
    content = asdict(header)
    text = json.dumps({**content, _CHECKSUM: _digest(content)}, indent=2)
    with atomic_write(header_path(checkpoint)) as file:
        file.write(f"{text}\n".encode())


def read_header(checkpoint: Path, *, identity: Mapping[str, Any]) -> CheckpointHeader:
    """Read the header of a checkpoint that this run is to continue from.

    Args:
        checkpoint: The folder of one checkpoint.
        identity: What this run is.

    Raises:
        ResumeError: If there is no header, it is damaged, or it is of another run; the message
            names the keys that differ, what the checkpoint has and what this run has.
    """
    header = load_header(checkpoint)
    if differing := other_run(header.identity, identity):
        named = "; ".join(differing[:_NAMED])
        more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        path = header_path(checkpoint)
        raise ResumeError(f"{path}: belongs to another run: {named}{more}")
    return header


def load_header(checkpoint: Path) -> CheckpointHeader:
    """Read the header of any run's checkpoint.

    Raises:
        ResumeError: If there is none, or it is damaged.
    """
    path = header_path(checkpoint)
    try:
        return _parse(parse_strictly(path.read_bytes()), path)
    except OSError as error:
        found = error.strerror
    except (ValueError, TypeError, RecursionError) as error:
        found = " ".join(str(error).split())
    raise ResumeError(f"{path}: expected a checkpoint's header, found {found}")


def find_damage(
    checkpoint: Path, header: CheckpointHeader, *, part: int = 0, parts: int = 1
) -> str | None:
    """Compare a checkpoint's files with what its header says of them, reading every byte.

    Args:
        checkpoint: Its folder.
        header: Its header.
        part: Which part of the files is compared, in ``[0, parts)``.
        parts: Into how many parts they are divided, at least 1.

    Returns:
        A line that names the first file that is missing, cut or changed; None: all are whole.
    """
    for name in sorted(header.files)[part::parts]:
        path, saved = checkpoint / name, header.files[name]
        try:
            size = path.stat().st_size
            if size != saved.bytes:
                return f"{path}: expected {saved.bytes} bytes of a checkpoint, found {size}"
            found = checksum(path)
        except OSError as error:
            return f"{path}: expected {saved.bytes} bytes of a checkpoint, found {error.strerror}"
        if found != saved.sha256:
            expected = f"the SHA-256 {saved.sha256[:16]}... by the checkpoint's header"
            return f"{path}: expected {expected}, found {found[:16]}..."
    return None


_HEADER_RECORD = TypeAdapter(CheckpointHeader)


def _parse(content: object, path: Path) -> CheckpointHeader:
    if not isinstance(content, dict):
        raise TypeError("no object in JSON")
    fields = dict(cast("dict[str, Any]", content))
    stated = fields.pop(_CHECKSUM, None)
    if stated is None:
        raise ValueError("one without a checksum, as earlier versions wrote it")
    if stated != _digest(fields):
        raise ValueError("one that was changed after it was written")
    try:
        return parse_record(_HEADER_RECORD, fields, place=str(path))
    except ValueError as error:
        raise ResumeError(str(error)) from None


def _digest(content: Mapping[str, Any]) -> str:
    """Return the checksum of all but the identity, which is compared key by key."""
    content = {name: value for name, value in content.items() if name != "identity"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in a run's output folder."""


_LATEST = "latest"


_NAME = re.compile(r"step-\d{8,18}", re.ASCII)


_OF_RANK = re.compile(r"_pp_rank_(\d+)_", re.ASCII)


_SHOWN = 5


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of an optimizer step lies."""
    return folder / f"step-{step:08d}"


def completed_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that were completed, oldest first. Their files are not read.

    Raises:
        ResumeError: If the folder cannot be read.
    """
    return [path for path in _checkpoints(folder) if header_path(path).exists()]


def mark_latest(checkpoint: Path) -> None:
    """Make a checkpoint the one that is continued from; flushed to the disk.

    Raises:
        OSError: If that cannot be written.
    """
    with atomic_write(checkpoint.parent / _LATEST) as file:
        file.write(checkpoint.name.encode())


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the folder of the checkpoint that ``latest`` names, None if there is no ``latest``.

    Raises:
        ResumeError: If it cannot be read, or is no name of a checkpoint.
    """
    path = folder / _LATEST
    try:
        name = path.read_bytes().strip().decode("ascii", errors="backslashreplace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ResumeError(
            f"{path}: expected the name of a checkpoint, found {error.strerror}"
        ) from None
    if not _NAME.fullmatch(name):
        expected = "the name of a checkpoint, such as step-00000500"
        raise ResumeError(f"{path}: expected {expected}, found {name[:60]!r}{_others(folder)}")
    return folder / name


def find_checkpoint(folder: Path, *, wanted: str | None = None) -> Path | None:
    """Return the checkpoint that a run continues from; None: the run has left none.

    Args:
        folder: Of a run's checkpoints; need not exist.
        wanted: Name of the one that the user asks for; None: the one that ``latest`` names.

    Raises:
        ResumeError: If there is none of that name, or ``latest`` is missing beside checkpoints
            that were completed: to begin anew would remove them, one after the other.
    """
    if wanted is not None:
        return _wanted(folder, wanted)
    latest = latest_checkpoint(folder)
    if latest is None and completed_checkpoints(folder):
        expected = "the name of the checkpoint to continue from"
        raise ResumeError(
            f"{folder / _LATEST}: expected {expected}, found no such file{_others(folder)}"
        )
    if latest is not None and not header_path(latest).exists():
        found = "one that was never completed" if latest.is_dir() else "no such folder"
        raise ResumeError(f"{latest}: expected a checkpoint, found {found}{_others(folder)}")
    return latest


def newest_whole(folder: Path, *, before: Path | None = None) -> Path | None:
    """Return the newest checkpoint of which every byte is as it was written; None: none is.

    Args:
        folder: Of a run's checkpoints.
        before: Older than this one; None: of all.
    """
    for path in reversed(completed_checkpoints(folder)):
        if before is not None and _step(path) >= _step(before):
            continue
        try:
            if find_damage(path, load_header(path)) is None:
                return path
        except ResumeError:  # its header is damaged
            continue
    return None


def advice(checkpoint: Path) -> str:
    """Return the end of a message about a damaged checkpoint: what the run may continue from."""
    whole = newest_whole(checkpoint.parent, before=checkpoint)
    if whole is None:
        return "; no checkpoint before it is whole"
    return f"; the newest whole one before it is {whole.name}: --from {whole.name} continues there"


def read_own_header(checkpoint: Path, *, identity: Mapping[str, Any]) -> CheckpointHeader:
    """Read the header of a checkpoint to continue from; see ``read_header``.

    Raises:
        ResumeError: As there; where the header is damaged, it names what to continue from instead.
    """
    try:
        load_header(checkpoint)
    except ResumeError as error:
        raise ResumeError(f"{error}{advice(checkpoint)}") from None
    return read_header(checkpoint, identity=identity)


def flush_files(checkpoint: Path, *, rank: int) -> dict[str, SavedFile]:
    """Bring to the disk what one rank has written of a checkpoint, and return its checksums.

    DeepSpeed names the files that each rank writes after the rank; the first one writes the rest.
    So each rank reads what it has written itself, and needs not wait until a network's file
    system shows it what others have.

    Args:
        checkpoint: Its folder.
        rank: The rank.

    Raises:
        OSError: If a file cannot be read or flushed.
    """
    files: dict[str, SavedFile] = {}
    folders = {checkpoint}
    for path in sorted(checkpoint.rglob("*")):
        owner = _OF_RANK.search(path.name)
        if path.is_file() and rank == (0 if owner is None else int(owner[1])):
            flush(path)
            name = path.relative_to(checkpoint).as_posix()
            files[name] = SavedFile(path.stat().st_size, checksum(path))
            folders.add(path.parent)
    for folder in sorted(folders):
        flush(folder)
    return files


def prune(folder: Path, *, newest: Path, keep_last: int, later_too: bool = True) -> None:
    """Remove the checkpoints that are not needed any more.

    Those that were never completed go first. Then those go that are later than the newest, which
    a run has left behind that went back before them, and then the oldest. What ``latest`` names
    stays in any case.

    Args:
        folder: Of a run's checkpoints.
        newest: The one that was written, or continued from, last.
        keep_last: How many stay, at least 1.
        later_too: Whether those that are later than the newest go.

    Raises:
        OSError: If one cannot be removed.
    """
    latest = latest_checkpoint(folder)
    completed = completed_checkpoints(folder)
    unfinished = [path for path in _checkpoints(folder) if path not in completed]
    later = [path for path in completed if _step(path) > _step(newest)]
    older = [path for path in completed if path not in later][:-keep_last]
    for path in (*unfinished, *(later if later_too else ()), *older):
        if path not in (latest, newest):
            remove(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; from the first moment on it counts as one that was never completed.

    Raises:
        OSError: If it cannot be removed.
    """
    header_path(checkpoint).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _checkpoints(folder: Path) -> list[Path]:
    """Return everything that has the name of a checkpoint, oldest first."""
    try:
        named = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ResumeError(
            f"{folder}: expected a folder of checkpoints, found {error.strerror}"
        ) from None
    return sorted((path for path in named if path.is_dir()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _wanted(folder: Path, name: str) -> Path:
    completed = completed_checkpoints(folder)
    if name not in [path.name for path in completed]:
        raise ResumeError(
            f"--from: expected a checkpoint in {folder} ({_listed(completed)}), found {name!r}"
        )
    return folder / name


def _others(folder: Path) -> str:
    """Return the end of a message: what there is to continue from."""
    completed = completed_checkpoints(folder)
    if not completed:
        return ""
    whole = newest_whole(folder)
    if whole is None:
        return f" beside {_listed(completed)}, none of which is whole"
    return f" beside {_listed(completed)}; --from {whole.name} continues from that one"


def _listed(checkpoints: list[Path]) -> str:
    names = [path.name for path in checkpoints[-_SHOWN:]]
    more = len(checkpoints) - len(names)
    return ", ".join(([f"{more} more"] if more else []) + names) or "there is none"
