"""Runs side by side: losses, tokens to a loss, weights, repetition and cost, as plain values.

Runs that differ in their seed and output alone are a group, whose values are means over the seeds
with standard errors. Runs have trained for different numbers of tokens: what moves during training
is compared at the last number that all of them were evaluated at.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain, combinations
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.report.grouping import group_runs, trained_config
from megadga.report.runs import RunHistory
from megadga.report.statistics import overhead
from megadga.section import format_value

GENERAL = "general"
"""What the mean loss over the domains is called."""
TOKENS_TO_BEST = "tokens to the first's best"
"""Measure of a specific set: trained tokens until its loss was the best of the first group."""
UNKNOWN = "-"
"""What stands where there is no value."""
_NUM_WEIGHTS = 8


@final
@dataclass(frozen=True)
class Value:
    """A number of a group of runs.

    Attributes:
        mean: Over the runs that have it.
        standard_error: Of the mean; None with one run.
        number: Runs that have it.
    """

    mean: float
    standard_error: float | None
    number: int


@final
@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration but for the seed.

    Attributes:
        name: A word for the table.
        runs: At least one, in the order that they were given in.
    """

    name: str
    runs: tuple[RunHistory, ...]


Unit = Literal["nats", "tokens", "step", "share", "weight"]
"""What the numbers of a row are."""


@final
@dataclass(frozen=True)
class Row:
    """A measure of every group.

    Attributes:
        measure: What it is, with its set in parentheses.
        unit: Of the numbers.
        cells: One for each group; None where it is not known.
    """

    measure: str
    unit: Unit
    cells: tuple[Value | None, ...]


@final
@dataclass(frozen=True)
class Difference:
    """A key of the configuration that groups differ in.

    Attributes:
        key: Dotted.
        values: One for each group, as text; a dash where it has none.
    """

    key: str
    values: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Groups of runs side by side.

    Attributes:
        groups: In the order of their first runs.
        tokens: Trained by all runs where they are compared; None: none was evaluated.
        rows: Measures that at least one group has.
        weights: Averaged weights that differ most, of domains or basis distributions.
        differences: Of the configurations.
        notes: What has to be known to read the rest, as sentences.
    """

    groups: tuple[Group, ...]
    tokens: int | None
    rows: tuple[Row, ...]
    weights: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(runs: Sequence[RunHistory]) -> Comparison:
    """Return runs side by side.

    Args:
        runs: At least one, of any rules, finished or not; the first one's group is what others
            are held against.

    Raises:
        ConfigError: If a folder is given twice.
    """
    _check_different(runs)
    groups = _grouped(runs)
    tokens = _common_tokens(runs)
    measures = chain(_loss_rows(groups, tokens), _cost_rows(groups, tokens))
    rows = tuple(row for row in measures if any(cell is not None for cell in row.cells))
    return Comparison(
        groups,
        tokens,
        rows,
        _weight_rows(groups, tokens),
        _differences(groups),
        tuple(_notes(groups, tokens)),
    )


def _check_different(runs: Sequence[RunHistory]) -> None:
    for first, second in combinations(runs, 2):
        if first.folder.resolve() == second.folder.resolve():
            raise ConfigError(f"{second.folder}: expected each run once, found it twice")


def _grouped(runs: Sequence[RunHistory]) -> tuple[Group, ...]:
    return tuple(
        Group(each.name, tuple(runs[number] for number in each.members))
        for each in group_runs(runs)
    )


def _common_tokens(runs: Sequence[RunHistory]) -> int | None:
    """Return the tokens after which all runs are compared; None: none was evaluated.

    The largest number after which all of them were evaluated; without one, that of the last
    evaluation of the run that was evaluated the least far.
    """
    evaluated = [_evaluated_tokens(run) for run in runs]
    evaluated = [each for each in evaluated if each.size]
    if not evaluated:
        return None
    everywhere = reduce(np.intersect1d, evaluated)
    return int(everywhere[-1]) if everywhere.size else min(int(each[-1]) for each in evaluated)


def _evaluated_tokens(run: RunHistory) -> IntArray:
    """Return the trained tokens at each evaluation, ascending."""
    steps = np.union1d(run.specific.steps, run.general.steps)
    return steps.astype(np.int64) * run.tokens_per_step


def _step(run: RunHistory, tokens: int | None) -> int:
    """Return the step up to which a run is compared."""
    return run.last_step if tokens is None else min(tokens // run.tokens_per_step, run.last_step)


@final
@dataclass(frozen=True, eq=False)
class _Curve:
    """A validation loss over the steps of a run, or in the mean over runs; may be empty.

    Attributes:
        steps: Shape ``(N,)``.
        losses: Without NaN, shape ``(N,)``.
    """

    steps: IntArray
    losses: FloatArray


def _curve(run: RunHistory, name: str, until: int | None = None) -> _Curve:
    """Return the loss of a set, or the general one, up to a step."""
    series = run.general if name == GENERAL else run.specific
    if name not in series.names:
        return _Curve(np.empty(0, np.int64), np.empty(0))
    losses = series.of(name)
    known = np.isfinite(losses)
    if until is not None:
        known &= series.steps <= until
    return _Curve(series.steps[known], losses[known])


def _mean_curve(runs: Sequence[RunHistory], name: str) -> _Curve:
    """Return the mean loss at the steps that all runs with this set were evaluated at."""
    curves = [curve for run in runs if (curve := _curve(run, name)).steps.size]
    if not curves:
        return _Curve(np.empty(0, np.int64), np.empty(0))
    steps = reduce(np.intersect1d, [curve.steps for curve in curves])
    losses = [curve.losses[np.isin(curve.steps, steps)] for curve in curves]
    return _Curve(steps, np.mean(losses, axis=0))


def _final_loss(run: RunHistory, *, name: str, tokens: int | None) -> float:
    losses = _curve(run, name, _step(run, tokens)).losses
    return float(losses[-1]) if losses.size else math.nan


def _best_loss(run: RunHistory, *, name: str, tokens: int | None) -> float:
    losses = _curve(run, name, _step(run, tokens)).losses
    return float(losses.min()) if losses.size else math.nan


def _best_step(run: RunHistory, *, name: str, tokens: int | None) -> float:
    curve = _curve(run, name, _step(run, tokens))
    return float(curve.steps[curve.losses.argmin()]) if curve.losses.size else math.nan


def _loss_rows(groups: Sequence[Group], tokens: int | None) -> Iterator[Row]:
    """Yield the losses of each set and the general one, and the tokens to the first's best."""
    runs = [run for group in groups for run in group.runs]
    names = dict.fromkeys(name for run in runs for name in run.specific.names)
    for name in (*names, GENERAL):
        at = {"name": name, "tokens": tokens}
        yield _row(groups, f"loss ({name})", "nats", partial(_final_loss, **at))
        yield _row(groups, f"best loss ({name})", "nats", partial(_best_loss, **at))
        yield _row(groups, f"step of best ({name})", "step", partial(_best_step, **at))
    for name in names:
        cells = tuple(_tokens_to_best(groups[0], group, name) for group in groups)
        yield Row(f"{TOKENS_TO_BEST} ({name})", "tokens", cells)


def _tokens_to_best(first: Group, group: Group, name: str) -> Value | None:
    """Return the tokens after which a group's mean loss has reached the first group's best.

    Between evaluations by interpolation. None: it has not, or one of the two has no such set.
    """
    best, curve = _mean_curve(first.runs, name), _mean_curve(group.runs, name)
    if not best.losses.size or not (reached := curve.losses <= best.losses.min()).any():
        return None
    after = int(reached.argmax())
    step = float(curve.steps[after])
    if after > 0:
        high, low = curve.losses[after - 1], curve.losses[after]
        share = (high - best.losses.min()) / (high - low)
        step = float(curve.steps[after - 1] + share * (step - curve.steps[after - 1]))
    return Value(step * group.runs[0].tokens_per_step, None, len(group.runs))


def _cost_rows(groups: Sequence[Group], tokens: int | None) -> Iterator[Row]:
    yield _row(
        groups, "trained tokens", "tokens", lambda r: float(r.last_step * r.tokens_per_step)
    )
    repeated = partial(_repeated_share, tokens=tokens)
    yield _row(groups, "repeated tokens", "share", repeated)
    yield _row(groups, "predicted overhead", "share", lambda run: _overhead(run)[0])
    yield _row(groups, "observed overhead", "share", lambda run: _overhead(run)[1])


def _overhead(run: RunHistory) -> tuple[float, float]:
    """Return the predicted and the observed overhead of all updates; NaN where unknown."""
    each = run.updates
    found = overhead(each.predicted_overhead, each.observed_overhead, each.probe_s)
    return (math.nan, math.nan) if found is None else (found.predicted, found.observed)


def _repeated_share(run: RunHistory, *, tokens: int | None) -> float:
    """Return the share of trained sequences that had been drawn before; NaN where unknown.

    A domain that was passed over ``e`` times, by ``n`` sequences, has ``n / e`` of them: the
    others, ``max(n - n / e, 0)``, were repeated. At the last step that passes are known of.
    """
    if not run.epochs.steps.size or {*run.sequences.names} - {*run.epochs.names}:
        return math.nan
    step = min(_step(run, tokens), int(run.epochs.steps[-1]))
    drawn, repeated = 0.0, 0.0
    for name in run.sequences.names:
        counts = np.cumsum(np.nan_to_num(run.sequences.of(name)))
        number = _at(run.sequences.steps, counts, step)
        passes = _at(run.epochs.steps, np.nan_to_num(run.epochs.of(name)), step)
        drawn += number
        repeated += number * (1.0 - 1.0 / passes) if passes > 1.0 else 0.0
    return repeated / drawn if drawn > 0.0 else math.nan


def _at(steps: IntArray, values: FloatArray, step: int) -> float:
    """Return a count at a step, from 0 at step 0, between rows by interpolation."""
    return float(np.interp(step, np.append(0, steps), np.append(0.0, values)))


def _weight_rows(groups: Sequence[Group], tokens: int | None) -> tuple[Row, ...]:
    """Return the averaged weights that differ most; of a single group, the largest."""
    runs = [run for group in groups for run in group.runs]
    names = dict.fromkeys(name for run in runs for name in run.weights.names)
    rows = [
        _row(groups, name, "weight", partial(_weight, name=name, tokens=tokens)) for name in names
    ]

    def spread(row: Row) -> float:
        means = [0.0 if cell is None else cell.mean for cell in row.cells]
        return max(means) - (min(means) if len(means) > 1 else 0.0)

    return tuple(sorted(rows, key=lambda row: (-spread(row), row.measure))[:_NUM_WEIGHTS])


def _weight(run: RunHistory, *, name: str, tokens: int | None) -> float:
    if name not in run.weights.names:
        return math.nan
    place = int(np.searchsorted(run.weights.steps, _step(run, tokens), side="right")) - 1
    return float(run.weights.weights[max(place, 0), run.weights.names.index(name)])


def _row(
    groups: Sequence[Group], measure: str, unit: Unit, of: Callable[[RunHistory], float]
) -> Row:
    """Return a measure of all groups, from a function of a run; NaN where it is not known."""
    return Row(measure, unit, tuple(_value([of(run) for run in group.runs]) for group in groups))


def _value(numbers: Sequence[float]) -> Value | None:
    known = np.array([number for number in numbers if not math.isnan(number)])
    if not known.size:
        return None
    error = None
    if known.size > 1:
        error = float(known.std(ddof=1)) / math.sqrt(known.size)
    return Value(float(known.mean()), error, known.size)


def _differences(groups: Sequence[Group]) -> tuple[Difference, ...]:
    flat = [trained_config(group.runs[0].config) for group in groups]
    keys = dict.fromkeys(key for each in flat for key in each)
    values = {
        key: tuple(_text(each[key]) if key in each else UNKNOWN for each in flat) for key in keys
    }
    return tuple(Difference(key, found) for key, found in values.items() if len(set(found)) > 1)


def _text(value: object) -> str:
    """Return a value of a key, strings without quotes."""
    return format_value(value).strip("'")


def _notes(groups: Sequence[Group], tokens: int | None) -> Iterator[str]:
    runs = [run for group in groups for run in group.runs]
    for group in groups:
        if len(group.runs) > 1:
            seeds = ", ".join(f"{run.folder} (seed {run.seed})" for run in group.runs)
            yield f"{group.name}: mean and standard error over {seeds}."
            if len({run.seed for run in group.runs}) < len(group.runs):
                yield f"{group.name}: not all seeds differ, and the errors are too small."
    for run in runs:
        if run.last_step < run.total_steps:
            yield f"{run.folder}: not finished, step {run.last_step} of {run.total_steps}."
    if tokens is None:
        yield "No run was evaluated: weights are those of each run's last step."
        return
    steps = {_step(run, tokens) for run in runs}
    where = f"step {steps.pop()}" if len(steps) == 1 else "another step in each"
    yield f"Losses, weights and repetition are those after {tokens:,} tokens, {where}."
    for run in runs:
        evaluated = _evaluated_tokens(run)
        if evaluated.size and tokens not in evaluated:
            last = evaluated[evaluated <= tokens]
            found = (
                f"last at step {last[-1] // run.tokens_per_step}" if last.size else "not before"
            )
            yield f"{run.folder}: was not evaluated then, {found}."
    yield from _not_reached(groups)


def _not_reached(groups: Sequence[Group]) -> Iterator[str]:
    """Yield where a group never got to the best loss of the first."""
    first, *others = groups
    for name in dict.fromkeys(name for run in first.runs for name in run.specific.names):
        best = _mean_curve(first.runs, name).losses
        for group in others:
            curve = _mean_curve(group.runs, name)
            if best.size and curve.losses.size and curve.losses.min() > best.min():
                yield (
                    f"{group.name}: has not reached {best.min():.4f} of {name}, the best of "
                    f"{first.name}, by step {curve.steps[-1]}."
                )
