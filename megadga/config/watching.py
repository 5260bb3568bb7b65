"""The section of a run's configuration that says how it is watched, and what follows."""

from typing import Annotated, Literal

from pydantic import Field

from megadga.section import PositiveFloat, PositiveInt, Section, StrictBool

MIN_WINDOW = 8
"""Losses from which a median and a deviation can be told."""


class LossSpikeSection(Section):
    """Steps whose loss stands out from those before them."""

    sigma: PositiveFloat = 6.0
    """Standard deviations above the median of the window from which a loss is a spike, above 0.
    The deviation is 1.4826 times the median absolute deviation, at least 0.001 of the median."""
    window: Annotated[int, Field(strict=True, ge=MIN_WINDOW, le=10_000)] = 100
    """Steps before a step that its loss is compared with, in [8, 10000]; none of the first
    `window` steps is a spike."""
    on_spike: Literal["warn", "skip", "stop", "rewind"] = "warn"
    """warn: only the event; skip: the batch's update is not applied; stop: the run ends with an
    error, unsaved; rewind: the run goes back to its last checkpoint, trains the steps since again
    and leaves the batch out. Losses and gradients that are not finite count as spikes for stop and
    rewind, such losses for skip; `training.non_finite_limit` holds for warn."""
    rewind_batches: PositiveInt = 1
    """Batches that a rewound run leaves out, at least 1: that of the spike, and those before it,
    back to the checkpoint at most. PaLM left out some hundreds (arXiv 2204.02311)."""
    limit: PositiveInt = 3
    """Spikes that skip and rewind answer, at least 1: batches skipped in a row, or returns to the
    same checkpoint. The next one ends the run with an error."""


class WatchSection(Section):
    """What ends a run, or is logged, where training goes wrong without an error."""

    no_progress_minutes: PositiveFloat | None = 20.0
    """Minutes without progress on a rank (no step, no forward pass, no part of an evaluation or
    checkpoint) after which it writes its stacks to OUTPUT/stacks and the run ends, above 0; null:
    no limit. Below `MEGADGA_DEADLINE_S`, or ranks that wait have failed by then."""
    compare_parameters: StrictBool = True
    """Whether every rank's copy of the parameters is compared with rank 0's before a checkpoint is
    written. Under ZeRO-3 there are no copies."""
    loss_spike: LossSpikeSection | None = LossSpikeSection()
    """Steps whose loss stands out; null: they are not looked for."""
