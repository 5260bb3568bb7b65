"""What a checkpoint says of itself before anything of it is loaded. Knows no engine.

On disk ``FOLDER/latest`` names the newest whole checkpoint; ``FOLDER/step-00000500/megadga.json``
is the header of one.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from megadga.config.identity import differences
from megadga.config.places import shown
from megadga.errors import ResumeError
from megadga.shards.strict_json import parse_strictly

_LATEST = "latest"
_HEADER = "megadga.json"
_NAMED = 8
"""Differences that an error names: two runs over other domains differ in thousands."""


@dataclass(frozen=True)
class CheckpointHeader:
    """What can be compared before a checkpoint is loaded.

    Attributes:
        step: Optimizer steps completed.
        metrics_length: Bytes that the metrics file had.
        identity: What the run is, as nested mappings of JSON values. A run may continue from the
            checkpoint if its own identity is equal.
    """

    step: int
    metrics_length: int
    identity: Mapping[str, Any]


def write_header(checkpoint: Path, header: CheckpointHeader) -> None:
    """Write the header into a checkpoint's folder, whole or not at all."""
    _write_whole(checkpoint / _HEADER, json.dumps(asdict(header), indent=2) + "\n")


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
    if differing := differences(header.identity, identity):
        named = "; ".join(differing[:_NAMED])
        more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        path = checkpoint / _HEADER
        raise ResumeError(f"{path}: belongs to another run: {named}{more}")
    return header


def load_header(checkpoint: Path) -> CheckpointHeader:
    """Read the header of any run's checkpoint.

    Raises:
        ResumeError: If there is none, or it is damaged.
    """
    path = checkpoint / _HEADER
    try:
        content = parse_strictly(path.read_bytes())
    except OSError as error:
        raise ResumeError(
            f"{path}: expected a checkpoint's header, found {error.strerror}"
        ) from None
    except ValueError as error:
        raise ResumeError(f"{path}: expected a checkpoint's header, found {error}") from None
    header = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    counts = [header.get("step"), header.get("metrics_length")]
    if (
        header.keys() != {field.name for field in fields(CheckpointHeader)}
        or not all(type(count) is int and count >= 0 for count in counts)
        or not isinstance(header["identity"], dict)
    ):
        names = ", ".join(field.name for field in fields(CheckpointHeader))
        raise ResumeError(
            f"{path}: expected a checkpoint's header, found something else than {names}: "
            f"{shown(content)}"
        )
    return CheckpointHeader(**header)


def mark_latest(checkpoint: Path) -> None:
    """Make a checkpoint the one that is continued from."""
    _write_whole(checkpoint.parent / _LATEST, checkpoint.name)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the folder of the newest whole checkpoint in ``folder``, None if there is none.

    Raises:
        ResumeError: If ``latest`` cannot be read, or names none.
    """
    latest = folder / _LATEST
    try:
        name = latest.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ResumeError(f"{latest}: expected a checkpoint's name, found {error}") from None
    if not re.fullmatch(r"step-[0-9]{8}", name):
        expected = "the name of a checkpoint like step-00000500"
        raise ResumeError(f"{latest}: expected {expected}, found {name[:60]!r}")
    return folder / name


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
