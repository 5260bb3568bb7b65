"""What an engineer would say about a run: its findings, as sentences with numbers and keys.

Each check reads the recent part of a run's history, and says something only where the evidence is
beyond noise. Nothing here depends on files: the same checks judge a run that is training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.safeguards import total_variation
from megadga.report.alignments import AlignmentHistory
from megadga.report.runs import RunHistory
from megadga.report.statistics import (
    Signal,
    block_size,
    crossing,
    last,
    noise,
    overhead,
    pace,
    persistent_signal,
    signal,
    swing,
)
from megadga.run_folder.domain_log import Series

RECENT_UPDATES = 128
"""Updates that are judged: what was wrong before and is not any more needs no advice."""
RECENT_EVALUATIONS = 32
"""Evaluations that are judged."""
MIN_UPDATES = 16
"""Updates without which nothing is said of them: a correlation over 16 is known within 1/4."""
MIN_EVALUATIONS = 6
"""Evaluations without which nothing is said of losses: they give four second differences."""

SIGMAS = 5.0
"""Standard deviations of the noise by which losses have to differ. Many domains are judged, after
every evaluation, and the noise is estimated from few values: at 3, chance finds some."""
UPDATE_SIGMAS = 2.5
"""Likewise for means over all recent updates, of which there is one in a run at a time."""
FILTER_SPAN = 16
"""Updates that filtered scores are averages of, at least: the second-shortest of the lifetimes
that `megadga.mixers.filtering` tries, over which scores hardly change."""
MIN_BLOCKS = 6
"""Blocks of updates without which the scatter between them says little."""
LEAST_SIGNAL = 1.0
"""Signal to noise below which more than half of what moves the weights is noise."""
CLEAR_SIGNAL = 2.0
"""Signal to noise of the mean over all updates at which weights ought to have moved."""
STILL = 0.01
"""Share of a batch. Mixtures that differ by less train the same model: seeds differ by more."""
SWING = 0.05
"""Share of a batch that an update moves to other domains in the mean: at less, weights that go
back and forth are what they are in the mean."""
TURNS = 4.0
"""How often weights have gone over their whole reach: there and back, twice."""
RISE = 0.05
"""Nats a token that a domain's validation loss has to rise by: 5 % of its perplexity."""
GENERAL_RISE = 0.1
"""Nats a token that the general loss has to rise by: where `general_guard` begins by default."""
MANY_PASSES = 4.0
"""Passes over text until which another one teaches about as much as new text (Muennighoff et al.,
arXiv 2305.16264), and the default of `epoch_budget`."""
PASSES_MARGIN = 1.1
"""Passes at the end are extrapolated: by so much they have to exceed a limit."""
FIRST_SHARE = 0.1
"""Share of a run before which its end is not extrapolated, as weights have only begun to move."""
LEAK_RATIO = 2.0
"""A specific set gains from text like it, as the domains' own validation sets do; twice the gain
of the fastest of them is more than being like one."""
LEAK_FALL = 0.1
"""Nats a token that a specific set's loss has to have fallen by lately."""
OVERHEAD_RATIO = 1.5
"""Observed over predicted overhead: predictions count operations, and may be wrong by half."""
OVERHEAD_EXCESS = 0.02
"""Share of the time of training below which an excess is not worth a change."""

_LISTED = 3


@final
@dataclass(frozen=True)
class Finding:
    """Something that should be changed, or known.

    Attributes:
        code: What kind, as ``memorised``.
        step: Optimizer steps that were completed at the last evidence.
        text: A sentence with its numbers, and what to change.
    """

    code: str
    step: int
    text: str


@final
@dataclass(frozen=True)
class Unjudged:
    """A check that cannot be made, or not yet.

    Attributes:
        code: Of its finding.
        text: What it lacks.
    """

    code: str
    text: str


Judgement = Finding | Unjudged | None


def findings(run: RunHistory) -> tuple[Finding, ...]:
    """Return what there is to say about a run, in a fixed order; empty: it is healthy."""
    return tuple(each for each in judge(run) if isinstance(each, Finding))


def judge(run: RunHistory) -> tuple[Finding | Unjudged, ...]:
    """Return the findings, and the checks that could not be made."""
    judged = (check(run) for check in CHECKS)
    return tuple(each for each in judged if each is not None)


def _noise(run: RunHistory) -> Judgement:
    """Weights that follow noise: the signal of what the rule averages is below 1."""
    code = "noise"
    if not run.alignments:
        return None
    span = FILTER_SPAN if _mixing(run).get("filtered") else 1
    recent = [_recent(history) for history in run.alignments.values()]
    found = [each for history in recent if (each := signal(history, span=span)) is not None]
    if not found:
        return Unjudged(code, "standard errors of alignments, found none")
    clearest = max(found, key=lambda each: each.square)
    if clearest.num_blocks < MIN_BLOCKS:
        wanted = MIN_BLOCKS * block_size(span)
        return Unjudged(code, f"{wanted} updates, found {clearest.num_updates}")
    if clearest.square + UPDATE_SIGMAS * clearest.error >= LEAST_SIGNAL**2:
        return None
    return Finding(code, _last_step(recent), _noise_text(run, clearest, span))


def _noise_text(run: RunHistory, found: Signal, span: int) -> str:
    mixing = _mixing(run)
    averaged = "" if span == 1 else f", averaged over {span} updates,"
    probe: Mapping[str, Any] = mixing.get("probe") or {}
    more = "raise mixing.probe.sequences_per_domain"
    if number := probe.get("sequences_per_domain"):
        wanted = ceil(number / max(found.square, 1.0 / 16.0))
        more = f"{more} from {number} to about {wanted}"
    return (
        f"Updates are noise: over the last {found.num_updates} updates the alignments of "
        f"domains{averaged} differ by {found.ratio:.2f} times their standard errors, and less "
        f"than {LEAST_SIGNAL:g} is mostly noise; {more}, or widen mixing.interval"
        f"{_now(mixing, 'interval')} to afford it. If that finds no differences either, fixed "
        "weights do as well."
    )


def _step_size_small(run: RunHistory) -> Judgement:
    """Weights that stay, although the alignments differ clearly."""
    code, mixing = "step_size_small", _mixing(run)
    if not run.alignments or "step_size" not in mixing:
        return None
    histories = list(run.alignments.values())
    if (number := min(len(each.steps) for each in histories)) < MIN_UPDATES:
        return Unjudged(code, f"{MIN_UPDATES} updates, found {number}")
    weights, step = run.weights.weights, int(run.weights.steps[-1])
    moved = total_variation(weights[0], weights[-1])
    at_end = moved * max(run.total_steps / max(step, 1), 1.0)
    clearest = max(persistent_signal(_recent(each)) for each in histories)
    if at_end >= STILL or clearest < CLEAR_SIGNAL:
        return None
    size = mixing["step_size"]
    advice = "raise mixing.step_size"
    if isinstance(size, int | float) and at_end > 0.0:
        advice = f"{advice} from {size:g} to about {size * 10.0 * STILL / at_end:.2g}"
    if mixing.get("ema", 1.0) < 1.0:
        advice = f"{advice}, or mixing.ema{_now(mixing, 'ema')}"
    text = (
        f"The step size is too small to matter: after {number} updates the weights have moved "
        f"{moved:.2%} of a batch from where they began, although the alignments of domains differ "
        f"by {clearest:.1f} times their standard errors in the mean; {advice}."
    )
    return Finding(code, step, text)


def _step_size_large(run: RunHistory) -> Judgement:
    """Weights that go back and forth by large steps."""
    code, mixing = "step_size_large", _mixing(run)
    if "step_size" not in mixing:
        return None
    if (number := len(run.weights.steps) - 1) < MIN_UPDATES:
        return Unjudged(code, f"{MIN_UPDATES} updates, found {number}")
    found = swing(run.weights.weights[-RECENT_UPDATES - 1 :])
    if found is None or found.change < SWING or found.turns < TURNS:
        return None
    size = mixing["step_size"]
    lower = "lower mixing.step_size"
    if isinstance(size, int | float):
        lower = f"{lower} from {size:g} to about {size * SWING / 2.0 / found.change:.2g}"
    text = (
        f"Weights swing: over the last {found.number} updates each has moved {found.change:.0%} "
        f"of a batch to other domains, {found.turns:.0f} times as far in all as the weights have "
        f"come; {lower}, or average by mixing.ema{_now(mixing, 'ema')}."
    )
    return Finding(code, int(run.weights.steps[-1]), text)


def _memorised(run: RunHistory) -> Judgement:
    """A domain whose training loss falls while its validation loss rises."""
    code = "memorised"
    held_out, trained = _matched(last(run.domains, RECENT_EVALUATIONS), run.trained)
    if (lacking := _lacking(code, held_out, "domains")) is not None:
        return lacking
    best = np.argmin(np.where(np.isnan(held_out.values), np.inf, held_out.values), axis=0)
    columns = np.arange(len(held_out.names))
    rises = held_out.values[-2:] - held_out.values[best, columns]
    fall = trained.values[best, columns] - trained.values[-1]
    found = (rises > np.maximum(RISE, _threshold(held_out.values))).all(axis=0)
    found &= fall > _threshold(trained.values)
    passes = _at_end(run.epochs, held_out.names)
    found &= ~(passes <= 1.0)  # what was not drawn twice has not been memorised
    if not found.any():
        return None
    worst = sorted(np.flatnonzero(found).tolist(), key=lambda index: -rises[-1, index])
    said = [
        f"{held_out.names[i]} (validation loss {_move(held_out, i, best[i])} since step "
        f"{held_out.steps[best[i]]}, training loss {_move(trained, i, best[i])}"
        + (f", {passes[i]:.1f} passes)" if np.isfinite(passes[i]) else ")")
        for i in worst
    ]
    if _mixing(run).get("type") == "dga":
        keys = ("repeat_decay", "epoch_budget")
        now = [f"mixing.{key}{_now(_mixing(run), key)}" for key in keys]
        less = f"lower {' or '.join(now)}"
    else:
        less = "give less weight to it"
    text = (
        f"Domains are being memorised: {_listed(said)}; {less}, set sampling.max_epochs"
        f"{_now(run.config.get('sampling', {}), 'max_epochs')}, or add text."
    )
    return Finding(code, int(held_out.steps[-1]), text)


def _runs_out(run: RunHistory) -> Judgement:
    """A domain that comes to its end, or is repeated very often, before the run does."""
    code, step = "runs_out", run.last_step
    recent = last(run.epochs, MIN_UPDATES)
    if len(recent.steps) < 2 or step < FIRST_SHARE * run.total_steps:
        return Unjudged(code, "passes over domains after a tenth of the run, found none yet")
    at_end = recent.values[-1] + pace(recent) * (run.total_steps - int(recent.steps[-1]))
    limit = run.config.get("sampling", {}).get("max_epochs")
    most = MANY_PASSES if limit is None else float(limit)
    ends = np.flatnonzero(at_end > PASSES_MARGIN * most)
    if not ends.size:
        return None
    first = 1.0 if limit is None else most
    most_first = sorted(ends.tolist(), key=lambda index: -at_end[index])
    said = [
        f"{recent.names[i]} at step {_end(run.epochs, recent, i, first)}"
        + (f" ({at_end[i]:.1f} passes by the end)" if limit is None else "")
        for i in most_first
    ]
    if limit is None:
        text = (
            f"Domains run out of new text: {_listed(said)}, and more than {MANY_PASSES:g} passes "
            "teach little; set sampling.max_epochs, so that others take its place, lower its "
            "weight, or add text."
        )
    else:
        text = (
            f"Domains reach sampling.max_epochs ({most:g}) before step {run.total_steps}: "
            f"{_listed(said)}; others take their place from there on. Add text, or raise it."
        )
    return Finding(code, step, text)


def _general_pays(run: RunHistory) -> Judgement:
    """A general loss that rises while the specific one falls."""
    code = "general_pays"
    specific, general = _matched(last(run.specific, RECENT_EVALUATIONS), run.general)
    if not run.general.steps.size or not _targets(run, specific):
        return None
    if (lacking := _lacking(code, general, "domains and specific sets")) is not None:
        return lacking
    best = int(np.nanargmin(general.values[:, 0]))
    rises = general.values[-2:, 0] - general.values[best, 0]
    falls = specific.values[best] - specific.values[-1]
    gained = falls > _threshold(specific.values)
    targets = [i for i in _targets(run, specific) if gained[i]]
    if not (rises > max(GENERAL_RISE, _threshold(general.values)[0])).all() or not targets:
        return None
    said = [f"{specific.names[i]} went {_move(specific, i, best)}" for i in targets]
    text = (
        f"The general loss pays for the specific one: since step {general.steps[best]} it went "
        f"{_move(general, 0, best)}, and {_listed(said)}; {_hold(_mixing(run))}."
    )
    return Finding(code, int(general.steps[-1]), text)


def _hold(mixing: Mapping[str, Any]) -> str:
    """Return what keeps weight on domains that the specific sets do not need."""
    if mixing.get("type") != "dga":
        return "give more weight to domains that matter besides it"
    guard = mixing.get("general_guard")
    if guard is None:
        return "set mixing.general_guard, or raise mixing.prior_pull" + _now(mixing, "prior_pull")
    return f"raise mixing.general_guard.pull{_now(guard, 'pull')} or mixing.floor" + _now(
        mixing, "floor"
    )


def _leak(run: RunHistory) -> Judgement:
    """A specific set whose loss falls as if its validation text were trained on."""
    code = "leak"
    specific, held_out = _matched(last(run.specific, RECENT_EVALUATIONS), run.domains)
    if not run.specific.steps.size:
        return None
    if (lacking := _lacking(code, held_out, "domains and specific sets")) is not None:
        return lacking
    middle = len(specific.steps) // 2
    falls = specific.values[middle] - specific.values[-1]
    others = held_out.values[middle] - held_out.values[-1]
    if np.isnan(others).all():
        return Unjudged(code, "validation losses of domains, found none")
    fastest = int(np.nanargmax(others))
    most = max(float(others[fastest]), 0.0)
    found = (falls > LEAK_FALL) & (falls - LEAK_RATIO * most > _threshold(specific.values))
    # Far below its neighbours, too: half of the domains are above it.
    found &= specific.values[-1] < np.nanmedian(held_out.values[-1])
    if not found.any():
        return None
    leaks = np.flatnonzero(found).tolist()
    said = [f"{specific.names[i]} went {_move(specific, i, middle)}" for i in leaks]
    text = (
        f"Validation text seems to be in training data: since step {specific.steps[middle]} "
        f"{_listed(said)}, while no domain's validation loss has fallen by more than {most:.2f} "
        f"({held_out.names[fastest]}). Look with `megadga check {run.folder}/config.yaml "
        "--leakage`, and build shards without what it finds."
    )
    return Finding(code, int(specific.steps[-1]), text)


def _overhead(run: RunHistory) -> Judgement:
    """Measuring that takes more time than was predicted."""
    code, updates = "overhead", run.updates
    if not np.isfinite(updates.predicted_overhead).any():
        return None
    # The first one includes what is compiled or allocated once.
    recent = slice(max(1, updates.steps.size - RECENT_UPDATES), None)
    found = overhead(
        updates.predicted_overhead[recent],
        updates.observed_overhead[recent],
        updates.probe_s[recent],
    )
    if found is None or found.number < MIN_UPDATES:
        number = 0 if found is None else found.number
        return Unjudged(code, f"{MIN_UPDATES} timed updates after the first, found {number}")
    excess = found.observed - found.predicted
    if excess <= max(OVERHEAD_EXCESS, SIGMAS * found.error):
        return None
    if found.observed <= OVERHEAD_RATIO * found.predicted:
        return None
    mixing, ratio = _mixing(run), found.observed / max(found.predicted, 1e-9)
    wider = "widen mixing.interval"
    if interval := mixing.get("interval"):
        wider = f"{wider} from {interval} to {ceil(interval * min(ratio, 100.0))}"
    text = (
        f"Measuring costs more than was predicted: {found.observed:.1%} of the time of training "
        f"over the last {found.number} updates, where {found.predicted:.1%} was predicted; "
        f"{wider}, or lower mixing.probe.sequences_per_domain."
    )
    return Finding(code, int(updates.steps[-1]), text)


CHECKS: tuple[Callable[[RunHistory], Judgement], ...] = (
    _noise,
    _step_size_small,
    _step_size_large,
    _memorised,
    _runs_out,
    _general_pays,
    _leak,
    _overhead,
)
"""All checks, in the order of their findings."""


def _mixing(run: RunHistory) -> Mapping[str, Any]:
    section: Mapping[str, Any] = run.config.get("mixing", {})
    return section


def _now(section: Mapping[str, Any], key: str) -> str:
    """Return the value of a key as `` (value)``; empty where it has none."""
    value = section.get(key)
    return "" if value is None else f" ({value})"


def _recent(history: AlignmentHistory) -> AlignmentHistory:
    return AlignmentHistory(
        history.names,
        history.steps[-RECENT_UPDATES:],
        history.alignments[-RECENT_UPDATES:],
        history.standard_errors[-RECENT_UPDATES:],
        history.weights,
    )


def _last_step(histories: Sequence[AlignmentHistory]) -> int:
    return max(int(each.steps[-1]) for each in histories)


def _targets(run: RunHistory, specific: Series) -> list[int]:
    """Return the places of the sets that the mixture is for, without additional ones."""
    names: Mapping[str, Any] = run.config.get("data", {}).get("specific") or {}
    return [place for place, name in enumerate(specific.names) if name in names]


def _matched(first: Series, second: Series) -> tuple[Series, Series]:
    """Return the rows that both series have; names of ``second`` in the order of ``first``.

    Where they have no name in common, those of ``second`` are kept.
    """
    _, of_first, of_second = np.intersect1d(first.steps, second.steps, return_indices=True)
    names = first.names if {*first.names} & {*second.names} else second.names
    places = {name: place for place, name in enumerate(second.names)}
    known = [place for place, name in enumerate(names) if name in places]
    values = np.full((of_second.size, len(names)), np.nan)
    values[:, known] = second.values[of_second][:, [places[names[i]] for i in known]]
    steps: IntArray = first.steps[of_first]
    return Series(first.names, steps, first.values[of_first]), Series(names, steps, values)


def _lacking(code: str, series: Series, of: str) -> Unjudged | None:
    """Return that there are too few evaluations; None: there are enough."""
    if (number := len(series.steps)) >= MIN_EVALUATIONS:
        return None
    return Unjudged(code, f"{MIN_EVALUATIONS} evaluations of {of}, found {number}")


def _threshold(values: FloatArray) -> FloatArray:
    """Return by how much two of each curve's values have to differ to be beyond noise."""
    limits: FloatArray = SIGMAS * np.sqrt(2.0) * noise(values)
    return limits


def _at_end(series: Series, names: Sequence[str]) -> FloatArray:
    """Return the last values of a series by name; NaN for those that are not known."""
    known = dict(zip(series.names, series.values[-1], strict=True)) if series.steps.size else {}
    return np.array([known.get(name, np.nan) for name in names])


def _end(epochs: Series, recent: Series, index: int, passes: float) -> int:
    """Return the step at which a domain has been, or will be, passed over so often."""
    name, done = recent.names[index], float(recent.values[-1, index])
    if done >= passes:
        return crossing(epochs, name, passes)
    left = (passes - done) / float(pace(recent)[index])
    return int(recent.steps[-1]) + ceil(left)


def _move(series: Series, index: int, since: int) -> str:
    """Return how a loss has moved: ``from 3.10 to 3.41``."""
    return f"from {series.values[since, index]:.2f} to {series.values[-1, index]:.2f}"


def _listed(said: Sequence[str]) -> str:
    """Return the first few of a list as text, and how many follow."""
    shown = ", ".join(said[:_LISTED])
    return shown if len(said) <= _LISTED else f"{shown} and {len(said) - _LISTED} more"
