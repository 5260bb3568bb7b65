"""Which batches a run leaves out since it went back to a checkpoint: ``rewinds.json``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from megadga.data.files import atomic_write, parse_strictly
from megadga.errors import ResumeError

REWINDS = "rewinds.json"
"""Name of the file in a run's output folder."""


@dataclass(frozen=True)
class Rewind:
    """A return to a checkpoint.

    Attributes:
        step: After which step, from 1.
        checkpoint: Name of the checkpoint.
        left_out: Steps whose batches are left out from then on.
        reason: What was found at ``step``.
    """

    step: int
    checkpoint: str
    left_out: tuple[int, ...]
    reason: str


def read_rewinds(output: Path) -> tuple[Rewind, ...]:
    """Return a run's returns to checkpoints, oldest first.

    Raises:
        ResumeError: If the file cannot be read or is damaged.
    """
    path = output / REWINDS
    try:
        content = parse_strictly(path.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ResumeError(f"{path}: expected a list of rewinds, found {found}") from None
    if not isinstance(content, list):
        raise ResumeError(f"{path}: expected a list of rewinds, found {str(content)[:60]}")
    return tuple(_parse(each, path) for each in cast("list[Any]", content))


def write_rewinds(output: Path, rewinds: tuple[Rewind, ...]) -> None:
    """Write a run's returns to checkpoints, and sync to disk.

    Raises:
        OSError: If they cannot be written.
    """
    with atomic_write(output / REWINDS) as file:
        text = json.dumps([asdict(rewind) for rewind in rewinds], indent=2)
        file.write(f"{text}\n".encode())


def clear_rewinds(output: Path) -> None:
    """Remove the records of an earlier run in the same folder."""
    (output / REWINDS).unlink(missing_ok=True)


def _parse(content: Any, path: Path) -> Rewind:
    match content:
        case {
            "step": int(step),
            "checkpoint": str(checkpoint),
            "left_out": [*steps],
            "reason": str(reason),
        } if all(type(each) is int for each in steps):
            return Rewind(step, checkpoint, tuple(steps), reason)
        case _:
            expected = "an object with step, checkpoint, left_out and reason"
            raise ResumeError(f"{path}: expected {expected}, found {str(content)[:60]}")
