"""Checkpoints in a run's folder: headers with checksums, the latest and the best checkpoint.

``FOLDER/latest`` names the checkpoint to resume from. A checkpoint is a folder such as
``FOLDER/step-00000500`` with a header ``megadga.json``, which is written last and lists every file
with its SHA-256: a folder without a header is incomplete.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import ConfigDict, TypeAdapter

from megadga.config.changes import check_allowed, check_changes, find_changes
from megadga.data.files import atomic_write, checksum, parse_strictly
from megadga.data.records import NonNegativeInt, Text, parse_record
from megadga.errors import ResumeError

_HEADER = "megadga.json"


_CHECKSUM = "sha256"


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
            checkpoint only if its own differs in nothing but what may change
            (``megadga.config.resuming``).
        files: All other files of the checkpoint, by path relative to its folder.
        data: Size in bytes and modification time in nanoseconds of every token file of the run,
            by the run's name for it.
        losses: Finite validation losses of the step in nats per token, as named in
            ``checkpoint.keep_best``; empty if the step was not evaluated.
        domain_log_length: Size of the log by domain in bytes; 0 before there was one.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    step: NonNegativeInt
    metrics_length: NonNegativeInt
    identity: Mapping[str, Any]
    files: Mapping[str, SavedFile]
    data: Mapping[str, Sequence[NonNegativeInt]] = field(default_factory=dict[str, Sequence[int]])
    losses: Mapping[str, float] = field(default_factory=dict[str, float])
    domain_log_length: NonNegativeInt = 0


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


def read_header(
    checkpoint: Path, *, identity: Mapping[str, Any], allowed: Collection[str] = ()
) -> CheckpointHeader:
    """Read a checkpoint's header and check that this run may go on from it.

    Args:
        checkpoint: The checkpoint's folder.
        identity: This run's identity.
        allowed: Keys that the user allows to change.

    Raises:
        ResumeError: If the header is missing, damaged, or of another run; the message lists the
            differing keys with the checkpoint's and this run's values. If ``allowed`` has keys
            that need not be allowed, or may not.
    """
    header = load_header(checkpoint)
    changes = find_changes(header.identity, identity)
    check_allowed(allowed, changes, header.identity)
    check_changes(changes, allowed=allowed, place=str(header_path(checkpoint)))
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


BEST = "best"
"""Name of the checkpoint with the lowest validation loss, where a checkpoint's name is asked for,
and of the file that has its real name."""


_NAME = re.compile(r"step-\d{8,18}", re.ASCII)


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
    return [path for path in all_checkpoints(folder) if header_path(path).exists()]


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
    return _named_in(folder / _LATEST)


def mark_best(folder: Path, checkpoint: Path | None) -> None:
    """Record the checkpoint with the lowest validation loss, None: that there is none.

    Raises:
        OSError: If ``best`` cannot be written.
    """
    path = folder / BEST
    if checkpoint is None:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_bytes() != checkpoint.name.encode():
        with atomic_write(path) as file:
            file.write(checkpoint.name.encode())


def best_checkpoint(folder: Path) -> Path:
    """Return the checkpoint with the lowest validation loss.

    Raises:
        ResumeError: If there is none, as the run has no ``checkpoint.keep_best`` for instance.
    """
    best = _named_in(folder / BEST)
    if best is None or not header_path(best).exists():
        found = "no such file" if best is None else f"{best.name}, which is no checkpoint"
        raise ResumeError(
            f"{folder / BEST}: expected the name of a checkpoint of a run with "
            f"checkpoint.keep_best, found {found}"
        )
    return best


def _named_in(path: Path) -> Path | None:
    """Return the checkpoint beside a file that is named in it, None without the file."""
    folder = path.parent
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
        wanted: Name of the checkpoint requested by the user, or ``best``; None: the one named in
            ``latest``.

    Raises:
        ResumeError: If there is no such checkpoint, or ``latest`` is missing although several
            completed checkpoints exist: a fresh start would prune them. A single one is what a
            run leaves that is killed before it has written ``latest`` for the first time.
    """
    if wanted is not None:
        return best_checkpoint(folder) if wanted == BEST else _requested(folder, wanted)
    latest = latest_checkpoint(folder)
    completed = completed_checkpoints(folder) if latest is None else []
    if len(completed) == 1:
        return completed[0]
    if completed:
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


def read_resume_header(
    checkpoint: Path, *, identity: Mapping[str, Any], allowed: Collection[str] = ()
) -> CheckpointHeader:
    """Read the header of a checkpoint to resume from; see ``read_header``.

    Raises:
        ResumeError: As there; for a damaged header the message suggests another checkpoint.
    """
    try:
        load_header(checkpoint)
    except ResumeError as error:
        raise ResumeError(f"{error}{resume_advice(checkpoint)}") from None
    return read_header(checkpoint, identity=identity, allowed=allowed)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its header first, so that an interrupted removal leaves it incomplete.

    Raises:
        OSError: If it cannot be removed.
    """
    header_path(checkpoint).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def all_checkpoints(folder: Path) -> list[Path]:
    """Return all folders named like a checkpoint, oldest first, complete or not."""
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
