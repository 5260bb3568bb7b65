"""Judges a run while it trains: what `megadga.report.advice` finds becomes an event, once."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.rule import WeightHistory
from megadga.plugin import Metrics
from megadga.report.advice import MIN_UPDATES, RECENT_EVALUATIONS, RECENT_UPDATES, findings
from megadga.report.alignments import AlignmentHistory
from megadga.report.history import REVISION, START
from megadga.report.records import read_events, read_last
from megadga.report.runs import RunHistory, Series, TrainHistory, UpdateHistory

ADVICE = "advice"
"""The event of a finding."""

_UPDATES_BETWEEN = 64
"""Updates after which a run is judged that has not been evaluated since."""
_MOST_VALUES = 1 << 21
"""Values of a kind that are remembered: 16 MiB."""
_RECALLED_BYTES = 1 << 26
"""Of the metrics that are read again when a run goes on."""
_COST = ("predicted_overhead", "observed_overhead", "probe_s")
_Values = Mapping[str, float | None]


@final
class _Rows:
    """The last rows of values by name; rows of other names begin anew.

    Args:
        most: Rows that are kept, fewer where they have very many values.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: tuple[str, ...] = ()
        self._rows = deque[tuple[int, FloatArray]]()

    def add(self, step: int, values: _Values) -> None:
        """Add the row of a step; None: not known, or not finite."""
        if self._names != (names := tuple(values)):
            kept = max(MIN_UPDATES + 1, min(self._most, _MOST_VALUES // max(len(names), 1)))
            self._names, self._rows = names, deque(maxlen=kept)
        # None becomes NaN.
        self._rows.append((step, np.array([*values.values()], dtype=np.float64)))

    def drop_from(self, step: int) -> None:
        """Forget the rows of a step and later ones."""
        while self._rows and self._rows[-1][0] >= step:
            self._rows.pop()

    def series(self) -> Series:
        """Return all rows."""
        steps = np.array([step for step, _ in self._rows], dtype=np.int64)
        values = np.array([row for _, row in self._rows], dtype=np.float64)
        return Series(self._names, steps, values.reshape(steps.size, len(self._names)))


@final
class _DomainLosses:
    """Mean training loss of each domain since the last evaluation."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, train: Mapping[str, Any]) -> None:
        """Add a ``train`` record."""
        for name, count in train["sequences_by_domain"].items():
            loss = train["loss_by_domain"][name]
            self._counts[name] = self._counts.get(name, 0) + count
            self._sums[name] = self._sums.get(name, 0.0) + count * (
                np.nan if loss is None else loss
            )

    def take(self, names: Mapping[str, Any]) -> _Values:
        """Return the means by name, and begin anew; None for domains that were not drawn."""
        means = {
            name: self._sums[name] / self._counts[name] if name in self._counts else None
            for name in names
        }
        self._sums, self._counts = {}, {}
        return means


@final
class Advisor:
    """Judges a run from the records of its steps. On one rank.

    It remembers the recent part of the run that the checks read, and judges at evaluations, or
    every 64 updates without. A finding is an event once, however often it is found. If the run
    goes back to an earlier step, what came after is forgotten, events too.

    Args:
        folder: The run's output folder.
        config: Its configuration, as ``config.yaml`` has it.
        metrics: Its ``metrics.jsonl``, of which the first call reads what was logged before: of a
            long run the last 64 MiB, and all events.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, metrics: Path) -> None:
        self._folder = folder
        self._config = config
        self._metrics: Path | None = metrics
        self._told: dict[str, int] = {}
        self._last_step = 0
        self._unjudged_updates = 0
        self._start: _Values = {}
        self._training = _DomainLosses()
        self._weights = _Rows(RECENT_UPDATES + 1)
        self._epochs = _Rows(RECENT_UPDATES)
        self._cost = _Rows(RECENT_UPDATES + 1)
        self._specific, self._domains, self._general, self._trained = (
            _Rows(RECENT_EVALUATIONS) for _ in range(4)
        )
        self._alignments: dict[str, tuple[_Rows, _Rows]] = {}
        self._failed = False

    def observe(self, step: int, metrics: Metrics) -> list[dict[str, Any]]:
        """Take in the records of a step, before they are logged; return the events to log.

        An error in here must not end the run: it becomes an event, and nothing is judged any more.
        """
        if self._failed:
            return []
        try:
            return self._observe(step, metrics)
        except Exception as error:  # noqa: BLE001  (told by the event)
            self._failed = True
            return [{"event": "advice_failed", "reason": f"{type(error).__name__}: {error}"}]

    def _observe(self, step: int, metrics: Metrics) -> list[dict[str, Any]]:
        if self._metrics is not None and self._metrics.exists():
            self._recall(self._metrics)
        self._metrics = None
        for kind, record in metrics.items():
            self._take(step, kind, record)
        if "evaluation" not in metrics and self._unjudged_updates < _UPDATES_BETWEEN:
            return []
        self._unjudged_updates = 0
        new = [each for each in findings(self._history()) if each.code not in self._told]
        self._told |= {each.code: step for each in new}
        return [{"event": ADVICE, "finding": each.code, "text": each.text} for each in new]

    def _recall(self, metrics: Path) -> None:
        for record in read_last(metrics, _RECALLED_BYTES):
            self._take(record["step"], record["type"], record)
        for event in read_events(metrics):
            if event["event"] == START:
                self._start = _weights(event)
            elif event["event"] == ADVICE:
                self._told[event["finding"]] = event["step"]

    def _take(self, step: int, kind: str, record: Mapping[str, Any]) -> None:
        match kind:
            case "train":
                if step <= self._last_step:
                    self._go_back(step)
                self._last_step = step
                self._training.add(record)
            case "update":
                self._take_update(step, record)
            case "evaluation":
                self._take_evaluation(step, record)
            case "event" if record["event"] == START:
                self._start = _weights(record)
            case "event" if record["event"] == REVISION:
                self._start = {}
            case _:
                pass

    def _take_update(self, step: int, update: Mapping[str, Any]) -> None:
        self._unjudged_updates += 1
        self._start = self._start or _weights(update)
        self._weights.add(step, _weights(update))
        if epochs := update.get("epochs"):
            self._epochs.add(step, epochs)
        if "probe_s" in update:
            self._cost.add(step, {key: update[key] for key in _COST})
        for target, (dots, errors) in _alignments(update).items():
            rows = self._alignments.setdefault(
                target, (_Rows(RECENT_UPDATES), _Rows(RECENT_UPDATES))
            )
            rows[0].add(step, dots)
            rows[1].add(step, errors or dict.fromkeys(dots))

    def _take_evaluation(self, step: int, evaluation: Mapping[str, Any]) -> None:
        if specific := evaluation["specific"]:
            self._specific.add(step, specific)
        if domains := evaluation.get("domains"):
            self._domains.add(step, domains)
            self._trained.add(step, self._training.take(domains))
        if evaluation["general"] is not None:
            self._general.add(step, {"general": evaluation["general"]})
        if epochs := evaluation.get("epochs"):
            self._epochs.drop_from(step)  # of an update of the same step
            self._epochs.add(step, epochs)

    def _go_back(self, step: int) -> None:
        """Forget a step and later ones, which the run repeats."""
        pairs = [rows for pair in self._alignments.values() for rows in pair]
        others = (self._weights, self._epochs, self._cost, self._specific, self._domains)
        for rows in (*pairs, *others, self._general, self._trained):
            rows.drop_from(step)
        self._told = {code: told for code, told in self._told.items() if told < step}
        self._training = _DomainLosses()

    def _history(self) -> RunHistory:
        """Return the run as far as it is remembered."""
        nothing = np.full(1, np.nan)
        return RunHistory(
            folder=self._folder,
            config=self._config,
            train=TrainHistory(
                np.array([self._last_step]), nothing, nothing, nothing, nothing, nothing, {}
            ),
            specific=self._specific.series(),
            domains=self._domains.series(),
            general=self._general.series(),
            trained=self._trained.series(),
            sequences=Series((), np.empty(0, np.int64), np.empty((0, 0))),
            weights=self._weight_history(),
            alignments={
                target: _alignment_history(*rows) for target, rows in self._alignments.items()
            },
            epochs=self._epochs.series(),
            updates=self._update_history(),
            events=(),
        )

    def _update_history(self) -> UpdateHistory:
        cost = self._cost.series()
        unknown = np.full(cost.steps.size, np.nan)
        predicted, observed, probe_s = cost.values.T if cost.names else (unknown,) * len(_COST)
        return UpdateHistory(cost.steps, predicted, observed, probe_s, effective_domains=unknown)

    def _weight_history(self) -> WeightHistory:
        """Return the weights that the run started with, and the recent ones."""
        recent = self._weights.series()
        if tuple(self._start) != recent.names:
            return WeightHistory(recent.names, recent.steps, recent.values)
        first = np.array([[*self._start.values()]], dtype=np.float64)
        steps = np.append(0, recent.steps)
        return WeightHistory(recent.names, steps, np.concatenate([first, recent.values]))


def _weights(record: Mapping[str, Any]) -> _Values:
    """Return the averaged weights of what the rule weights."""
    found: _Values = record.get("basis_averaged_weights") or record["averaged_weights"]
    return found


def _alignments(update: Mapping[str, Any]) -> dict[str, tuple[_Values, _Values]]:
    """Return alignments and their standard errors, if there are any, by specific set."""
    if "alignments" in update:
        return {"": (update["alignments"], update.get("standard_errors", {}))}
    errors = update.get("target_standard_errors", {})
    targets = update.get("target_alignments", {})
    return {name: (dots, errors.get(name, {})) for name, dots in targets.items()}


def _alignment_history(dots: _Rows, errors: _Rows) -> AlignmentHistory:
    found = dots.series()
    unknown = np.full(len(found.names), np.nan)  # no check reads these weights
    return AlignmentHistory(
        found.names, found.steps, found.values, errors.series().values, unknown
    )
