"""Checkpoints in a run's folder: headers with checksums, the latest checkpoint, pruning.

``FOLDER/latest`` names the checkpoint to resume from. A checkpoint is a folder such as
``FOLDER/step-00000500`` with a header ``megadga.json``, which is written last and lists every file
with its SHA-256: a folder without a header is incomplete.
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

from megadga.config.run import run_differences
from megadga.data.files import atomic_write, checksum, flush, parse_strictly
from megadga.data.records import NonNegativeInt, Text, parse_record
from megadga.errors import ResumeError

_HEADER = "megadga.json"


_CHECKSUM = "sha256"


_MAX_DIFFERENCES = 8
"""Differences listed in an error; configurations may differ in thousands of keys."""


@dataclass(frozen=True)
class SavedFile:
    """Header entry of one file of a checkpoint.

    Attributes:
        bytes: Its size.
        sha256: Its checksum, as hex digits.
    """

    bytes: NonNegativeInt
    sha256: Text


@dataclass(frozen=True)
class CheckpointHeader:
    """Metadata of a checkpoint, checked before it is loaded.

    Attributes:
        step: Optimizer steps completed.
        metrics_length: Size of the metrics file in bytes.
        identity: The run's identity, as nested mappings of JSON values. A run may resume from the
            checkpoint only if its own identity is equal.
        files: All other files of the checkpoint, by path relative to its folder.
        data: Size in bytes and modification time in nanoseconds of every token file of the run,
            by the run's name for it.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    step: NonNegativeInt
    metrics_length: NonNegativeInt
    identity: Mapping[str, Any]
    files: Mapping[str, SavedFile]
    data: Mapping[str, Sequence[NonNegativeInt]] = field(default_factory=dict[str, Sequence[int]])


def header_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's header."""
    return checkpoint / _HEADER


def write_header(checkpoint: Path, header: CheckpointHeader) -> None:
    """Write the header of a checkpoint atomically and sync it to disk.

    Raises:
        OSError: If it cannot be written.
    """
    content = asdict(header)
    text = json.dumps({**content, _CHECKSUM: _digest(content)}, indent=2)
    with atomic_write(header_path(checkpoint)) as file:
        file.write(f"{text}\n".encode())


def read_header(checkpoint: Path, *, identity: Mapping[str, Any]) -> CheckpointHeader:
    """Read a checkpoint's header and check that it belongs to this run.

    Args:
        checkpoint: The checkpoint's folder.
        identity: This run's identity.

    Raises:
        ResumeError: If the header is missing, damaged, or of another run; the message lists the
            differing keys with the checkpoint's and this run's values.
    """
    header = load_header(checkpoint)
    if differing := run_differences(header.identity, identity):
        named = "; ".join(differing[:_MAX_DIFFERENCES])
        more = (
            f"; and {len(differing) - _MAX_DIFFERENCES} more"
            if len(differing) > _MAX_DIFFERENCES
            else ""
        )
        path = header_path(checkpoint)
        raise ResumeError(f"{path}: belongs to another run: {named}{more}")
    return header


def load_header(checkpoint: Path) -> CheckpointHeader:
    """Read a checkpoint's header, whatever its run.

    Raises:
        ResumeError: If it is missing or damaged.
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
    """Verify the sizes and checksums of a checkpoint's files.

    Args:
        checkpoint: Its folder.
        header: Its header.
        part: The part of the files to verify, in ``[0, parts)``.
        parts: Number of parts, at least 1.

    Returns:
        A line about the first file that is missing, truncated or changed; None if all are intact.
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
        raise ValueError("a header without a checksum, as written by earlier versions")
    if stated != _digest(fields):
        raise ValueError("a header that was modified after it was written")
    try:
        return parse_record(_HEADER_RECORD, fields, place=str(path))
    except ValueError as error:
        raise ResumeError(str(error)) from None


def _digest(content: Mapping[str, Any]) -> str:
    """Return the checksum of everything but the identity, which is compared key by key."""
    content = {name: value for name, value in content.items() if name != "identity"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


CHECKPOINTS = "checkpoints"
"""Name of the checkpoint folder in a run's output folder."""


_LATEST = "latest"


_NAME = re.compile(r"step-\d{8,18}", re.ASCII)


_RANK_FILE = re.compile(r"_pp_rank_(\d+)_", re.ASCII)


_MAX_LISTED = 5


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of an optimizer step."""
    return folder / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def completed_checkpoints(folder: Path) -> list[Path]:
    """Return the completed checkpoints, oldest first, without verifying their files.

    Raises:
        ResumeError: If the folder cannot be read.
    """
    return [path for path in _checkpoints(folder) if header_path(path).exists()]


def mark_latest(checkpoint: Path) -> None:
    """Record a checkpoint as the one to resume from, and sync to disk.

    Raises:
        OSError: If ``latest`` cannot be written.
    """
    with atomic_write(checkpoint.parent / _LATEST) as file:
        file.write(checkpoint.name.encode())


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint named in ``latest``, None if there is no such file.

    Raises:
        ResumeError: If ``latest`` cannot be read or does not name a checkpoint.
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
        raise ResumeError(
            f"{path}: expected {expected}, found {name[:60]!r}{_alternatives(folder)}"
        )
    return folder / name


def find_checkpoint(folder: Path, *, wanted: str | None = None) -> Path | None:
    """Return the checkpoint to resume from; None if there is none.

    Args:
        folder: A run's checkpoint folder; need not exist.
        wanted: Name of the checkpoint requested by the user; None: the one named in ``latest``.

    Raises:
        ResumeError: If there is no such checkpoint, or ``latest`` is missing although completed
            checkpoints exist: a fresh start would prune them.
    """
    if wanted is not None:
        return _requested(folder, wanted)
    latest = latest_checkpoint(folder)
    if latest is None and completed_checkpoints(folder):
        expected = "the name of the checkpoint to continue from"
        raise ResumeError(
            f"{folder / _LATEST}: expected {expected}, found no such file{_alternatives(folder)}"
        )
    if latest is not None and not header_path(latest).exists():
        found = "an incomplete one" if latest.is_dir() else "no such folder"
        raise ResumeError(f"{latest}: expected a checkpoint, found {found}{_alternatives(folder)}")
    return latest


def newest_intact_checkpoint(folder: Path, *, before: Path | None = None) -> Path | None:
    """Return the newest checkpoint whose files all match their checksums, None if there is none.

    Args:
        folder: A run's checkpoint folder.
        before: Consider only checkpoints older than this one; None: all.
    """
    for path in reversed(completed_checkpoints(folder)):
        if before is not None and step_of(path) >= step_of(before):
            continue
        try:
            if find_damage(path, load_header(path)) is None:
                return path
        except ResumeError:  # its header is damaged
            continue
    return None


def resume_advice(checkpoint: Path) -> str:
    """Return the end of an error about a damaged checkpoint: which one to resume from instead."""
    intact = newest_intact_checkpoint(checkpoint.parent, before=checkpoint)
    if intact is None:
        return "; no earlier checkpoint is intact"
    return f"; the newest intact one before it is {intact.name}: resume with --from {intact.name}"


def read_resume_header(checkpoint: Path, *, identity: Mapping[str, Any]) -> CheckpointHeader:
    """Read the header of a checkpoint to resume from; see ``read_header``.

    Raises:
        ResumeError: As there; for a damaged header the message suggests another checkpoint.
    """
    try:
        load_header(checkpoint)
    except ResumeError as error:
        raise ResumeError(f"{error}{resume_advice(checkpoint)}") from None
    return read_header(checkpoint, identity=identity)


def flush_files(checkpoint: Path, *, rank: int) -> dict[str, SavedFile]:
    """Sync the files that one rank has written to a checkpoint, and return their checksums.

    DeepSpeed puts the rank into the names of per-rank files; rank 0 writes the others. Each rank
    reads only its own files, so that it need not wait for a network file system to show those of
    other ranks.

    Args:
        checkpoint: Its folder.
        rank: The rank.

    Raises:
        OSError: If a file cannot be read or synced.
    """
    files: dict[str, SavedFile] = {}
    folders = {checkpoint}
    for path in sorted(checkpoint.rglob("*")):
        owner = _RANK_FILE.search(path.name)
        if path.is_file() and rank == (0 if owner is None else int(owner[1])):
            flush(path)
            name = path.relative_to(checkpoint).as_posix()
            files[name] = SavedFile(path.stat().st_size, checksum(path))
            folders.add(path.parent)
    for folder in sorted(folders):
        flush(folder)
    return files


def prune(folder: Path, *, newest: Path, keep_last: int, remove_later: bool = True) -> None:
    """Remove obsolete checkpoints.

    Removes incomplete ones first, then those later than the newest (left behind by a run that was
    rewound), then the oldest. The one named in ``latest`` is always kept.

    Args:
        folder: A run's checkpoint folder.
        newest: The checkpoint that was written, or resumed from, last.
        keep_last: Number of checkpoints to keep, at least 1.
        remove_later: Whether to remove checkpoints later than the newest.

    Raises:
        OSError: If one cannot be removed.
    """
    latest = latest_checkpoint(folder)
    completed = completed_checkpoints(folder)
    unfinished = [path for path in _checkpoints(folder) if path not in completed]
    later = [path for path in completed if step_of(path) > step_of(newest)]
    older = [path for path in completed if path not in later][:-keep_last]
    for path in (*unfinished, *(later if remove_later else ()), *older):
        if path not in (latest, newest):
            remove(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its header first, so that an interrupted removal leaves it incomplete.

    Raises:
        OSError: If it cannot be removed.
    """
    header_path(checkpoint).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _checkpoints(folder: Path) -> list[Path]:
    """Return all folders named like a checkpoint, oldest first."""
    try:
        named = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ResumeError(
            f"{folder}: expected a folder of checkpoints, found {error.strerror}"
        ) from None
    return sorted((path for path in named if path.is_dir()), key=step_of)


def _requested(folder: Path, name: str) -> Path:
    completed = completed_checkpoints(folder)
    if name not in [path.name for path in completed]:
        raise ResumeError(
            f"--from: expected a checkpoint in {folder} ({_format_names(completed)}), "
            f"found {name!r}"
        )
    return folder / name


def _alternatives(folder: Path) -> str:
    """Return the end of an error: the checkpoints to resume from."""
    completed = completed_checkpoints(folder)
    if not completed:
        return ""
    intact = newest_intact_checkpoint(folder)
    if intact is None:
        return f" beside {_format_names(completed)}, none of which is intact"
    return f" beside {_format_names(completed)}; resume with --from {intact.name}"


def _format_names(checkpoints: list[Path]) -> str:
    names = [path.name for path in checkpoints[-_MAX_LISTED:]]
    more = len(checkpoints) - len(names)
    return ", ".join(([f"{more} more"] if more else []) + names) or "there is none"
