"""What a checkpoint says of itself before anything of it is loaded. Knows no engine.

``FOLDER/step-00000500/megadga.json`` is the header of a checkpoint. It is written when all other
files are, and lists them with their checksums: a folder without one was never completed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from megadga.config.identity import other_run
from megadga.errors import ResumeError
from megadga.shards.files import checksum, written_whole
from megadga.shards.strict_json import parse_strictly

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

    bytes: int
    sha256: str


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

    step: int
    metrics_length: int
    identity: Mapping[str, Any]
    files: Mapping[str, SavedFile]
    data: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])


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
    with written_whole(header_path(checkpoint)) as file:
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
        return _parse(parse_strictly(path.read_bytes()))
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


def _parse(content: object) -> CheckpointHeader:
    fields = dict(_object(content, "JSON"))
    stated = fields.pop(_CHECKSUM, None)
    if stated is None:
        raise ValueError("one without a checksum, as earlier versions wrote it")
    if stated != _digest(fields):
        raise ValueError("one that was changed after it was written")
    files = _object(fields.pop("files", None), "files")
    saved = {name: SavedFile(**_object(entry, name)) for name, entry in files.items()}
    header = CheckpointHeader(files=saved, **fields)
    _object(header.identity, "identity")
    counts = (header.step, header.metrics_length, *(file.bytes for file in saved.values()))
    if not all(type(count) is int and count >= 0 for count in counts):
        raise TypeError("steps or sizes that are no counts")
    return header


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"no object in {name}")
    return cast("dict[str, Any]", value)


def _digest(content: Mapping[str, Any]) -> str:
    """Return the checksum of all but the identity, which is compared key by key."""
    content = {name: value for name, value in content.items() if name != "identity"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
