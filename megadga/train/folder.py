"""The checkpoints in a run's folder: which are whole, and which one a run continues from.

``FOLDER/latest`` names the checkpoint that a run continues from; ``FOLDER/step-00000500`` is one.
Knows no engine.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megadga.errors import ResumeError
from megadga.shards.files import checksum, flush, written_whole
from megadga.train.header import (
    CheckpointHeader,
    SavedFile,
    find_damage,
    header_path,
    load_header,
    read_header,
)

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
    with written_whole(checkpoint.parent / _LATEST) as file:
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
