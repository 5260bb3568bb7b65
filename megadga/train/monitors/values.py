"""The numbers of a step's records by name, as monitors take them: a bounded number of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast, final

import numpy as np

from megadga.data.exhaustion import exhaustion_steps
from megadga.plugin import Metrics
from megadga.plugin.records import BY_DOMAIN

MAX_SHOWN = 64
"""Domains up to which each has its own curves."""
LEADING = 16
"""Domains with curves of their own if there are more: those with the greatest weights."""
QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
"""What is shown of the others' weights and alignments."""

_SPREAD = ("weights", "averaged_weights", "alignments")
_SUMMED = ("weights", "averaged_weights")
_EARLIER_EPOCH = 1.0


@final
class RecordValues:
    """Names the numbers of records.

    Args:
        weights: Averaged weights of the domains when the process starts, by name.
        windows: Returns the windows of each domain, by name.
        global_batch_size: ``B``.
        groups: Names of domains whose weights are summed, by the name of the group; may overlap.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        windows: Callable[[], Mapping[str, int]],
        global_batch_size: int,
        groups: Mapping[str, Sequence[str]] = {},
    ) -> None:
        self._windows = windows
        self._batch = global_batch_size
        self._groups = groups
        self._leading = _leading(weights)

    def of(self, step: int, metrics: Metrics) -> dict[str, float]:
        """Return the numbers of a step's records; empty: it has none for monitors.

        Non-finite numbers stay; what is None is left out.
        """
        update = metrics.get("update", {})
        if "averaged_weights" in update:
            of_basis = update.get("basis_averaged_weights", {})
            self._leading = _leading(update["averaged_weights"]) | _leading(of_basis)
        values: dict[str, float] = {}
        for kind, name in (("train", self._train), ("update", self._update)):
            if kind in metrics:
                values |= name(metrics[kind])
        if update.get("averaged_weights") and update.get("epochs"):
            values |= self._runs_out(step, update)
        if "evaluation" in metrics:
            values |= self._evaluation(metrics["evaluation"], with_epochs=not update)
        if "checkpoint" in metrics:
            values |= _checkpoint(metrics["checkpoint"])
        return values

    def _train(self, record: Mapping[str, Any]) -> dict[str, float]:
        values = dict(_numbers("train", record))
        values |= _numbers("seconds", record.get("seconds", {}))
        return values | self._of_names("loss_by_domain", record.get("loss_by_domain", {}))

    def _update(self, record: Mapping[str, Any]) -> dict[str, float]:
        values = dict(_numbers("update", record))
        for key in BY_DOMAIN:
            found = record.get(key, {})
            if key.startswith("target_"):
                for target, of_target in found.items():
                    prefix = f"{key.removeprefix('target_')}/{target}"
                    values |= self._of_names(prefix, of_target)
            else:
                values |= self._of_names(key, found)
        for key in ("target_losses", "target_weights"):
            values |= _numbers(f"update/{key}", record.get(key, {}))
        return values

    def _evaluation(self, record: Mapping[str, Any], *, with_epochs: bool) -> dict[str, float]:
        values = dict(_numbers("evaluation", record))
        values |= _numbers("evaluation/specific", record["specific"])
        values |= self._of_names("evaluation/domains", record["domains"])
        if with_epochs:
            values |= self._of_names("epochs", record.get("epochs", {}))
        return values

    def _of_names(self, prefix: str, by_name: Mapping[str, Any]) -> dict[str, float]:
        """Return the values of domains, or basis distributions: all, or the leading ones."""
        shown = by_name
        values: dict[str, float] = {}
        if len(by_name) > MAX_SHOWN:
            shown = {name: by_name[name] for name in by_name if name in self._leading}
            if prefix.partition("/")[0] in _SPREAD:
                levels = np.nanquantile([*by_name.values()], [*QUANTILES.values()])
                named = dict(zip(QUANTILES, levels.tolist(), strict=True))
                values |= _numbers(f"quantiles/{prefix}", named)
        if prefix in _SUMMED:
            sums = {
                group: sum(by_name.get(name, 0.0) for name in names)
                for group, names in self._groups.items()
            }
            values |= _numbers(f"groups/{prefix}", sums)
        return values | dict(_numbers(prefix, shown))

    def _runs_out(self, step: int, update: Mapping[str, Any]) -> dict[str, float]:
        """Return the step at which each domain's first epoch ends, of those that still are in it.

        If it goes on being drawn at the present weights, by which it is not reached if they are 0.
        """
        weights, epochs, windows = update["averaged_weights"], update["epochs"], self._windows()
        names = [n for n in weights if n in windows and epochs.get(n, _EARLIER_EPOCH) < 1.0]
        steps = exhaustion_steps(
            np.array([epochs[name] for name in names], dtype=np.float64),
            np.array([windows[name] for name in names], dtype=np.float64),
            np.array([self._batch * weights[name] for name in names], dtype=np.float64),
            step=step,
        )
        known = {n: s for n, s in zip(names, steps.tolist(), strict=True) if np.isfinite(s)}
        if len(weights) > MAX_SHOWN:
            known = {name: at for name, at in known.items() if name in self._leading}
        return dict(_numbers("runs_out", known))


def _leading(weights: Mapping[str, float]) -> frozenset[str]:
    return frozenset(sorted(weights, key=lambda name: -weights[name])[:LEADING])


def _checkpoint(record: Mapping[str, Any]) -> dict[str, float]:
    return {**dict(_numbers("checkpoint", record)), "seconds/checkpoint": record["waited_s"]}


def _numbers(prefix: str, record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record itself, and not those of what is inside it."""
    for key, value in record.items():
        if isinstance(value, int | float):
            yield f"{prefix}/{key}", float(cast("float", value))
