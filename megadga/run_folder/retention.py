"""Which checkpoints of a run are kept: the newest, those of chosen steps, and the best."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ResumeError
from megadga.run_folder.checkpoints import (
    all_checkpoints,
    completed_checkpoints,
    latest_checkpoint,
    load_header,
    remove,
    step_of,
)


@dataclass(frozen=True)
class Retention:
    """The checkpoints to keep; those that any of the rules names.

    Attributes:
        keep_last: Number of newest ones, at least 1; None: all.
        keep_every: Those of the steps that are multiples of this number, at least 1; None: none.
        best_loss: Name of the validation loss that the best ones are lowest in; None: none is
            kept for its loss.
        num_best: Number of best ones, at least 1.
    """

    keep_last: int | None
    keep_every: int | None = None
    best_loss: str | None = None
    num_best: int = 1


def best_checkpoints(folder: Path, *, newest: Path, loss: str) -> list[Path]:
    """Return the completed checkpoints up to the newest that have a validation loss, best first.

    Of equal losses the earlier checkpoint's is better. Those of a damaged header have none.

    Args:
        folder: A run's checkpoint folder.
        newest: The checkpoint that was written, or resumed from, last: later ones are left behind
            by a run that was rewound.
        loss: Name of the loss.
    """
    losses: dict[Path, float] = {}
    for path in completed_checkpoints(folder):
        if step_of(path) > step_of(newest):
            continue
        try:
            found = load_header(path).losses.get(loss)
        except ResumeError:
            continue
        if found is not None:
            losses[path] = found
    return sorted(losses, key=lambda path: (losses[path], step_of(path)))


def prune(
    folder: Path,
    *,
    newest: Path,
    retention: Retention,
    remove_later: bool = True,
    unfinished: Iterable[Path] = (),
) -> None:
    """Remove obsolete checkpoints.

    Removes incomplete ones first, then those later than the newest (left behind by a run that was
    rewound), then the oldest. The one named in ``latest`` is always kept.

    Args:
        folder: A run's checkpoint folder.
        newest: The checkpoint that was written, or resumed from, last.
        retention: The checkpoints to keep.
        remove_later: Whether to remove checkpoints later than the newest.
        unfinished: Those that are being written.

    Raises:
        OSError: If one cannot be removed.
    """
    completed = completed_checkpoints(folder)
    incomplete = [path for path in all_checkpoints(folder) if path not in completed]
    later = [path for path in completed if step_of(path) > step_of(newest)]
    mine = [path for path in completed if path not in later]
    kept = {
        newest,
        latest_checkpoint(folder),
        *unfinished,
        *_kept(folder, mine, newest, retention),
    }
    older = [path for path in mine if path not in kept]
    for path in (*incomplete, *(later if remove_later else ()), *older):
        if path not in kept:
            remove(path)


def _kept(
    folder: Path, completed: list[Path], newest: Path, retention: Retention
) -> Iterable[Path]:
    """Return the checkpoints of a run that a rule keeps."""
    if retention.keep_last is None:
        return completed
    kept = completed[-retention.keep_last :]
    if (every := retention.keep_every) is not None:
        kept += [path for path in completed if step_of(path) % every == 0]
    if (loss := retention.best_loss) is not None:
        kept += best_checkpoints(folder, newest=newest, loss=loss)[: retention.num_best]
    return kept
