"""A run as its folder tells it: what reports, comparisons and advice are made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.config.yaml_source import read_file
from megadga.errors import ConfigError
from megadga.mixers.rule import WeightHistory
from megadga.report.alignments import ONLY_SET, AlignmentHistory, has_alignments, read_alignments
from megadga.report.history import read_weights_from_start
from megadga.report.records import (
    Record,
    RunRecords,
    counts_by_name,
    number_at,
    numbers_by_name,
    read_metrics,
)
from megadga.run_folder import CONFIG_FILE, METRICS_FILE
from megadga.run_folder.domain_log import (
    DOMAIN_LOG,
    EVALUATION,
    DomainLog,
    Series,
    read_domain_log,
)


@final
@dataclass(frozen=True, eq=False)
class TrainHistory:
    """What was logged of every optimizer step; arrays of shape ``(N,)``.

    Attributes:
        steps: Ascending.
        loss: Mean over the batch, nats per token.
        learning_rate: NaN where unknown.
        gradient_norm: Before clipping; NaN where unknown or not finite.
        tokens_per_s: Over all ranks.
        flops_utilisation: Share of the accelerators' peak, in [0, 1]; NaN where unknown.
        seconds: Seconds of rank 0 by what they were spent on, ``checkpoint`` after the step; 0
            where none was logged.
    """

    steps: IntArray
    loss: FloatArray
    learning_rate: FloatArray
    gradient_norm: FloatArray
    tokens_per_s: FloatArray
    flops_utilisation: FloatArray
    seconds: Mapping[str, FloatArray]


@final
@dataclass(frozen=True, eq=False)
class UpdateHistory:
    """What was logged of every update of the mixture but values by domain; arrays ``(N,)``.

    Attributes:
        steps: Ascending.
        predicted_overhead: Share of training time; NaN where unknown.
        observed_overhead: Likewise; noisy, may be below 0.
        probe_s: Seconds spent on measuring since the update before.
        effective_domains: Exponential of the entropy of the averaged weights; NaN where unknown.
    """

    steps: IntArray
    predicted_overhead: FloatArray
    observed_overhead: FloatArray
    probe_s: FloatArray
    effective_domains: FloatArray


@final
@dataclass(frozen=True)
class Event:
    """Something that happened once.

    Attributes:
        step: Optimizer steps that were completed.
        kind: As the record's ``event`` says.
        values: The record's other values.
    """

    step: int
    kind: str
    values: Mapping[str, Any]


@final
@dataclass(frozen=True, eq=False)
class RunHistory:
    """A run, finished or not.

    Attributes:
        folder: The run's output folder.
        config: Its configuration, as ``config.yaml`` has it.
        train: Every optimizer step.
        specific: Validation losses of the specific and additional evaluation sets.
        domains: Validation losses of the domains.
        general: Mean of these, as a series of one name.
        trained: Mean training loss of each domain since the evaluation before, at the steps of
            evaluations and the last; NaN for domains that were not drawn.
        sequences: Sequences drawn of each domain, likewise.
        weights: Averaged weights from step 0 on, of the domains or, of too many to log, the basis.
        alignments: By specific set; empty if the rule measures none.
        epochs: Passes over each domain, at updates and evaluations that have them.
        gradient_norms: Of what alignments are measured of, at the updates that have them.
        direction_norms: Of the specific sets' gradients, by their names in ``alignments``.
        updates: Every update that was not skipped.
        events: In the order of the file.
    """

    folder: Path
    config: Mapping[str, Any]
    train: TrainHistory
    specific: Series
    domains: Series
    general: Series
    trained: Series
    sequences: Series
    weights: WeightHistory
    alignments: Mapping[str, AlignmentHistory]
    gradient_norms: Series
    direction_norms: Series
    epochs: Series
    updates: UpdateHistory
    events: tuple[Event, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config.get("seed", 0))

    @property
    def last_step(self) -> int:
        """The last optimizer step that was logged; 0: none was."""
        return int(self.train.steps[-1]) if self.train.steps.size else 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return int(self.config["training"]["steps"])

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step is trained on."""
        sequences = int(self.config["training"]["global_batch_size"])
        return sequences * int(self.config["model"]["sequence_length"])

    def of_kind(self, kind: str) -> tuple[Event, ...]:
        """Return the events of a kind."""
        return tuple(event for event in self.events if event.kind == kind)


def read_run(folder: Path) -> RunHistory:
    """Read a run, finished or in progress, from its output folder.

    Raises:
        ConfigError: If the folder is not a run's, or one of its files cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a run's output folder, found none")
    config = read_file(folder / CONFIG_FILE).values
    run = read_metrics(folder / METRICS_FILE)
    evaluations, updates = run.of("evaluation"), run.of("update")
    trained, sequences = _by_domain_between(run, [each["step"] for each in evaluations])
    normed = [each for each in updates if "gradient_norms" in each]
    log = _DomainValues.beside(run)
    domains = _by_name(run, [each for each in evaluations if each.get("domains")], "domains")
    alignments = read_alignments(run) if any(map(has_alignments, updates)) else {}
    return RunHistory(
        folder=folder,
        config=config,
        train=_train(run),
        specific=_by_name(run, [each for each in evaluations if each.get("specific")], "specific"),
        domains=log.fuller(domains, EVALUATION),
        general=_general(run, evaluations),
        trained=trained,
        sequences=sequences,
        weights=log.fuller_weights(read_weights_from_start(run)),
        alignments={name: log.fuller_alignments(each, name) for name, each in alignments.items()},
        epochs=log.fuller(_by_name(run, _with_epochs(run), "epochs"), "epochs"),
        gradient_norms=log.fuller(_by_name(run, normed, "gradient_norms"), "gradient_norms"),
        direction_norms=_direction_norms(run, updates),
        updates=_updates(run),
        events=tuple(map(_event, run.of("event"))),
    )


@final
@dataclass(frozen=True, eq=False)
class _DomainValues:
    """Takes values by domain from the log of all of them where the metrics have only some.

    Attributes:
        log: The run's; None: it has none, as those of earlier versions.
    """

    log: DomainLog | None

    @staticmethod
    def beside(run: RunRecords) -> "_DomainValues":
        """Return the values beside a metrics file."""
        path = run.path.parent / DOMAIN_LOG
        return _DomainValues(read_domain_log(path) if path.exists() else None)

    def fuller(self, known: Series, key: str) -> Series:
        """Return the values of a key if there are more of them than are known."""
        if self.log is None or len(self.log.steps(key)) <= known.steps.size:
            return known
        return self.log.series(key)

    def fuller_weights(self, known: WeightHistory) -> WeightHistory:
        """Return all weights; a domain has the weight 0 while it is not there."""
        for key in ("averaged_weights", "basis_averaged_weights"):
            found = self.fuller(Series(known.names, known.steps, known.weights), key)
            if set(found.names) == set(known.names):
                return WeightHistory(found.names, found.steps, np.nan_to_num(found.values))
        return known

    def fuller_alignments(self, known: AlignmentHistory, target: str) -> AlignmentHistory:
        """Return the alignments with a specific set at all updates."""
        values, errors = "alignments", "standard_errors"
        if target != ONLY_SET:
            values, errors = (f"target_{each}.{target}" for each in (values, errors))
        found = self.fuller(Series(known.names, known.steps, known.alignments), values)
        if found.steps.size == known.steps.size or not set(known.names) <= set(found.names):
            return known
        deviations = np.full((found.steps.size, len(known.names)), np.nan)
        if self.log is not None and self.log.steps(errors):
            there = self.log.series(errors)
            deviations[np.isin(found.steps, there.steps)] = _columns_of(there, known.names)
        return replace(
            known,
            steps=found.steps,
            alignments=_columns_of(found, known.names),
            standard_errors=deviations,
        )


def _columns_of(series: Series, names: Sequence[str]) -> FloatArray:
    return series.values[:, [series.names.index(name) for name in names]]


def _train(run: RunRecords) -> TrainHistory:
    records = run.of("train")
    numbers = _columns(run, records)
    return TrainHistory(
        steps=_steps(records),
        loss=numbers("loss"),
        learning_rate=numbers("learning_rate"),
        gradient_norm=numbers("grad_norm"),
        tokens_per_s=numbers("tokens_per_s"),
        flops_utilisation=numbers("mfu"),
        seconds=_seconds(run, records),
    )


def _seconds(run: RunRecords, records: Sequence[Record]) -> dict[str, FloatArray]:
    """Return what each step's time was spent on, with what training waited for checkpoints."""
    spent = [numbers_by_name(run.path, r, "seconds") if "seconds" in r else {} for r in records]
    kinds = dict.fromkeys(kind for each in spent for kind in each)
    seconds = {kind: np.array([each.get(kind, 0.0) for each in spent]) for kind in kinds}
    written = run.of("checkpoint")
    if seconds and written:
        waited = {each["step"]: number_at(run.path, each, "waited_s") for each in written}
        seconds["checkpoint"] = np.array([waited.get(each["step"], 0.0) for each in records])
    return seconds


def _updates(run: RunRecords) -> UpdateHistory:
    whole = {"update", "update_summary"}
    records = [record for record in run.records if record["type"] in whole]
    numbers = _columns(run, records)
    return UpdateHistory(
        steps=_steps(records),
        predicted_overhead=numbers("predicted_overhead"),
        observed_overhead=numbers("observed_overhead"),
        probe_s=numbers("probe_s"),
        effective_domains=numbers("effective_domains"),
    )


def _with_epochs(run: RunRecords) -> list[Record]:
    """Return the last record of each step that has been told the passes over domains."""
    kinds = {"update", "evaluation"}
    records = [each for each in run.records if each["type"] in kinds and each.get("epochs")]
    return list({record["step"]: record for record in records}.values())


def _direction_norms(run: RunRecords, updates: Sequence[Record]) -> Series:
    several = [each for each in updates if "target_gradient_norms" in each]
    if several:
        return _by_name(run, several, "target_gradient_norms")
    single = [each for each in updates if "specific_gradient_norm" in each]
    values = [{ONLY_SET: number_at(run.path, each, "specific_gradient_norm")} for each in single]
    return _series(_steps(single), values)


def _general(run: RunRecords, evaluations: Sequence[Record]) -> Series:
    known = [each for each in evaluations if each.get("general") is not None]
    values = np.array([number_at(run.path, each, "general") for each in known])
    return Series(("general",), _steps(known), values.reshape(-1, 1))


def _columns(run: RunRecords, records: Sequence[Record]) -> Callable[[str], FloatArray]:
    """Return a function from a key to its numbers; NaN in records without it."""

    def numbers(key: str) -> FloatArray:
        found = (number_at(run.path, r, key) if key in r else np.nan for r in records)
        return np.fromiter(found, np.float64, len(records))

    return numbers


def _steps(records: Sequence[Record]) -> IntArray:
    return np.array([record["step"] for record in records], dtype=np.int64)


def _by_name(run: RunRecords, records: Sequence[Record], key: str) -> Series:
    values = [numbers_by_name(run.path, record, key) for record in records]
    return _series(_steps(records), values)


def _by_domain_between(run: RunRecords, ends: Sequence[int]) -> tuple[Series, Series]:
    """Return training losses and sequences by domain up to each step, from the one before."""
    records = run.of("train")
    steps = _steps(records)
    last = [int(steps[-1])] if steps.size and (not ends or steps[-1] > ends[-1]) else []
    bounds = np.array([*ends, *last], dtype=np.int64)
    sums: list[dict[str, float]] = [{} for _ in bounds]
    counts: list[dict[str, float]] = [{} for _ in bounds]
    for record, place in zip(records, np.searchsorted(bounds, steps).tolist(), strict=True):
        drawn = counts_by_name(run.path, record, "sequences_by_domain")
        losses = numbers_by_name(run.path, record, "loss_by_domain")
        for name, count in drawn.items():
            counts[place][name] = counts[place].get(name, 0.0) + count
            sums[place][name] = sums[place].get(name, 0.0) + count * losses[name]
    means = [
        {name: total / of[name] for name, total in each.items()}
        for each, of in zip(sums, counts, strict=True)
    ]
    return _series(bounds, means), _series(bounds, counts)


def _series(steps: IntArray, values: Sequence[Mapping[str, float]]) -> Series:
    names = tuple(dict.fromkeys(name for each in values for name in each))
    table = [[each.get(name, np.nan) for name in names] for each in values]
    return Series(names, steps, np.array(table, dtype=np.float64).reshape(len(values), len(names)))


def _event(record: Record) -> Event:
    values = {key: record[key] for key in record if key not in {"type", "step", "event"}}
    return Event(record["step"], record["event"], values)
