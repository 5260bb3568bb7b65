"""The weights of a run over its steps, from its records."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.mixers.rule import WeightHistory
from megadga.report.records import Record, RunRecords, numbers_by_name, section, unexpected
from megadga.run_folder.domain_log import DOMAIN_LOG, read_domain_log

_ROUNDING = 1e-6


def averaged_weights(
    metrics: Path, update: Record, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Return an update's averaged weights by name, over the domains or the basis.

    Args:
        metrics: The file, for messages.
        update: A record of type ``update``.
        names: Names of the weights to return; None: the domains', or the basis' if there are too
            many domains to log.

    Raises:
        ConfigError: If there are none, or they are not in [0, 1].
    """
    of_domains, of_basis = update.get("averaged_weights"), update.get("basis_averaged_weights")
    key = "averaged_weights"
    if of_domains is None or (names and set(names) == {*section(of_basis)}):
        key = key if of_basis is None else "basis_averaged_weights"
    weights = numbers_by_name(metrics, update, key)
    if not all(0.0 <= weight <= 1.0 + _ROUNDING for weight in weights.values()):
        raise unexpected(metrics, update, key, "weights in [0, 1]", update[key])
    return weights


START = "start"
"""The event with the weights at step 0."""


SUMMARY = "update_summary"
"""Type of the records of updates that are logged without values by domain."""


REVISION = "revision"
"""The event after which a run has other domains."""


def is_revised(run: RunRecords) -> bool:
    """Tell whether the domains of a run have changed during it."""
    return bool(run.events(REVISION))


def read_weights_from_start(run: RunRecords) -> WeightHistory:
    """Return the weights in a run's metrics from step 0 on, constant if there are no updates.

    Metrics of older runs without an event ``start`` begin at the first update.

    Raises:
        ConfigError: If there are neither, or the domains change.
    """
    if not (starts := run.events(START)):
        return read_weights(run)
    names = tuple(averaged_weights(run.path, starts[0]))
    first = np.array([list(averaged_weights(run.path, starts[0]).values())])
    if not run.of("update"):
        steps = [record["step"] for record in run.of("train")]
        last = max(steps, default=0)
        return WeightHistory(names, np.array([0, last], dtype=np.int64), np.repeat(first, 2, 0))
    updates = read_weights(run)
    if updates.names != names and is_revised(run):
        every = tuple(dict.fromkeys((*names, *updates.names)))
        parts = (_over(every, names, first), _over(every, updates.names, updates.weights))
        return WeightHistory(every, np.append(0, updates.steps), np.concatenate(parts))
    if updates.names != names:
        raise ConfigError(
            f"{run.path}: event {START}: expected the domains {', '.join(updates.names)}, "
            f"found {', '.join(names)}"
        )
    return WeightHistory(
        names,
        np.concatenate([[0], updates.steps]),
        np.concatenate([first, updates.weights]),
    )


def read_all_weights(run: RunRecords) -> WeightHistory:
    """Return the weights after every update of a run, exactly.

    Those of the log by domain beside the metrics, if the run has one from its start, else those
    of the metrics, of which none may have been logged without.

    Raises:
        ConfigError: As ``read_weights`` does, or if the log is damaged, or there is a summary of
            an update and no log.
    """
    if (logged := _logged_weights(run.path.parent / DOMAIN_LOG)) is not None:
        return logged
    if summaries := run.of(SUMMARY):
        raise ConfigError(
            f"{run.path}: expected the weights of every update, found {len(summaries)} updates "
            f"without, the first at step {summaries[0]['step']}, and no {DOMAIN_LOG} beside it "
            "that begins with the run"
        )
    return read_weights(run)


def _logged_weights(path: Path) -> WeightHistory | None:
    """Return the weights after each update in a log by domain; None: it does not have all."""
    if not path.exists():
        return None
    log = read_domain_log(path)
    key = "averaged_weights"
    if 0 not in log.steps(key) or len(log.steps(key)) == 1:
        return None
    series = log.series(key)
    weights = np.nan_to_num(series.values[1:], nan=0.0)  # of domains that were not there
    return WeightHistory(series.names, series.steps[1:], weights)


def _over(every: Sequence[str], names: Sequence[str], weights: FloatArray) -> FloatArray:
    """Return weights over more domains, 0 for those that were not there."""
    wider = np.zeros((len(weights), len(every)))
    wider[:, [every.index(name) for name in names]] = weights
    return wider


def read_weights(run: RunRecords) -> WeightHistory:
    """Return the weights in the updates of a run's metrics.

    Of a run whose domains were revised, a domain has the weight 0 while it is not there.

    Raises:
        ConfigError: If there is no update yet, or the domains change without a revision.
    """
    updates = run.of("update")
    if not updates:
        raise ConfigError(f"{run.path}: expected a record of type update, found none")
    weights = [averaged_weights(run.path, update) for update in updates]
    names: tuple[str, ...] = tuple(weights[0])
    revised = is_revised(run)
    if revised:
        names = tuple(dict.fromkeys(name for of_update in weights for name in of_update))
    for update, of_update in zip(updates, weights, strict=True):
        if (found := tuple(of_update)) != names and not revised:
            raise ConfigError(
                f"{run.path}: update of step {update['step']}: expected the domains "
                f"{', '.join(names)}, found {', '.join(found)}"
            )
    return WeightHistory(
        names,
        np.array([update["step"] for update in updates], dtype=np.int64),
        np.array([[of_update.get(name, 0.0) for name in names] for of_update in weights]),
    )
