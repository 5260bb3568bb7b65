"""The validation loss that the best checkpoints of a run are chosen by."""

import math
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from megadga.config.run import RunConfig
from megadga.data.domain import SequenceSet

GENERAL = "general"

_MAX_LISTED = 8


def check_best_loss(
    config: RunConfig, *, domains: Iterable[SequenceSet], specific: Iterable[SequenceSet]
) -> None:
    """Check that ``checkpoint.keep_best`` names a loss that the run evaluates.

    Args:
        config: The run.
        domains: Held-out splits of the domains.
        specific: Held-out splits of the specific sets and the additional evaluation sets.

    Raises:
        ConfigError: If it does not; names the nearest loss that it does.
    """
    if config.checkpoint is None or (best := config.checkpoint.keep_best) is None:
        return
    names = list(_loss_names(domains, specific))
    if best.loss in names:
        return
    shown = ", ".join(names[:_MAX_LISTED]) or "none"
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    close = get_close_matches(best.loss, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise config.invalid(
        *("checkpoint", "keep_best", "loss"),
        expected=f"a validation loss of this run ({shown}{more})",
        found=f"{best.loss!r}{hint}",
    )


def recorded_losses(
    evaluation: Mapping[str, Any] | None, best_loss: str | None
) -> dict[str, float]:
    """Return the finite losses of an ``evaluation`` record that a checkpoint keeps, by name.

    Those of domains, of which there may be thousands, only if the best checkpoint is chosen by it.

    Args:
        evaluation: The record; None: the step was not evaluated.
        best_loss: Name of the loss that the best checkpoint is chosen by; None: it is not.
    """
    if evaluation is None:
        return {}
    named = {
        GENERAL: evaluation[GENERAL],
        **{f"specific/{name}": loss for name, loss in evaluation["specific"].items()},
        **{
            key: loss
            for name, loss in evaluation["domains"].items()
            if (key := f"domains/{name}") == best_loss
        },
    }
    return {name: loss for name, loss in named.items() if loss is not None and math.isfinite(loss)}


def _loss_names(domains: Iterable[SequenceSet], specific: Iterable[SequenceSet]) -> Iterator[str]:
    yield from (f"specific/{each.name}" for each in specific)
    held_out = [each.name for each in domains]
    yield from [GENERAL] if held_out else []
    yield from (f"domains/{name}" for name in held_out)
