"""Plans any batch of a run again from its folder, without an engine: what the model saw at a step.

The plan of a batch is a function of the seed, the sampler's state and the averaged weights. The
metrics hold a state some steps before, and the weights of each step since (``report.sampling``):
the batches between are planned, and not read.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.data.domain import Domain
from megadga.data.rows import rank_rows
from megadga.data.sampler import BatchPlan, MixtureSampler, SamplerState, occurrences
from megadga.errors import ConfigError, ResumeError, ShardError
from megadga.mixers.base import Mixtures
from megadga.report.records import Record
from megadga.report.sampling import BatchLayout, SamplerRecord, SamplingLog, read_sampling
from megadga.run_folder import CONFIG_FILE, METRICS_FILE
from megadga.run_folder.checkpoints import CHECKPOINTS, completed_checkpoints, load_header
from megadga.train.data import open_training
from megadga.train.revision_files import recorded_revisions, revised_config

_MAX_NAMED = 4


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """The global batch of a step.

    Attributes:
        step: From 1.
        domains: Index of each sequence's domain, shape ``(B,)``.
        windows: Its window inside the domain, shape ``(B,)``.
        epochs: Epoch of the domain that it is drawn in, from 0, shape ``(B,)``.
        ranks: Rank that trains on it, shape ``(B,)``.
        micro_batches: Which of the rank's micro-batches it is in, from 0, shape ``(B,)``.
        exact_until: Last step whose weights are known: a batch after it is a prediction from the
            present weights. None: all are known, as weights do not move by themselves.
        train: The step's ``train`` record; None if it has not been trained.
    """

    step: int
    domains: IntArray
    windows: IntArray
    epochs: IntArray
    ranks: IntArray
    micro_batches: IntArray
    exact_until: int | None
    train: Record | None

    @property
    def is_exact(self) -> bool:
        """Whether this is what was trained, or will be; false for a prediction."""
        return self.exact_until is None or self.step <= self.exact_until


@final
@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run's folder, opened to plan its batches.

    Attributes:
        folder: The run's output folder.
        config: The run.
        domains: Its training domains, ``K`` of them.
        mixtures: Basis distributions that the weights are of; None: they are of the domains.
        shards: Digest of the domains' identity.
        identity: The domains' identity.
    """

    folder: Path
    config: RunConfig
    domains: Sequence[Domain]
    mixtures: Mixtures | None
    shards: str
    identity: Mapping[str, str] | str

    def batch(
        self, step: int, *, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> PlannedBatch:
        """Plan the batch of a step, past or future.

        Args:
            step: From 1 to the run's last.
            progress: Called with the batches that were planned, and all that will be.

        Raises:
            ConfigError: If there is no such step, or the metrics do not say what is needed, or
                contradict the plan.
            ShardError: If the shards are not those that the step is trained on.
        """
        if not 1 <= step <= self.config.training.steps:
            expected = f"a step from 1 to {self.config.training.steps}"
            raise ConfigError(f"--step: expected {expected}, found {step}")
        metrics = self.folder / METRICS_FILE
        log = read_sampling(metrics, step)
        layout = log.sampler.layout
        self._check_shards(layout)
        sampler = self._sampler(log.sampler)
        before, plan = self._replay(sampler, log, step, progress)
        self._check_counts(metrics, plan, log)
        domains, windows = plan.selection.domains, plan.selection.sequences
        draws = before.cursors[domains] + occurrences(domains)
        ranks, micro_batches = _places(layout)
        return PlannedBatch(
            step,
            domains,
            windows,
            sampler.order.epochs_of(domains, draws),
            ranks,
            micro_batches,
            None if log.train is not None else exact_until(log),
            log.train,
        )

    def _sampler(self, record: SamplerRecord) -> MixtureSampler:
        layout = record.layout
        sizes = np.array([domain.num_sequences for domain in self.domains], dtype=np.int64)
        return MixtureSampler(
            sizes if record.order is None else record.order,
            global_batch_size=layout.global_batch_size,
            seed=layout.seed,
            method=layout.method,
            max_epochs=layout.max_epochs,
        )

    def _replay(
        self,
        sampler: MixtureSampler,
        log: SamplingLog,
        step: int,
        progress: Callable[[int, int], None],
    ) -> tuple[SamplerState, BatchPlan]:
        """Return the state before a step, and the plan of its batch."""
        record = log.sampler
        state = SamplerState(record.step, record.cursors)
        updates = list(reversed(log.updates))
        total = step - record.step
        weights = self._of_domains(record.weights)
        while True:
            while updates and updates[-1][0] <= state.step:
                weights = self._of_domains(updates.pop()[1])
            progress(state.step - record.step + 1, total)
            if state.step == step - 1:
                return state, sampler.plan(state, weights)
            state = sampler.advance(state, weights)

    def _of_domains(self, weights: FloatArray) -> FloatArray:
        mixed = weights if self.mixtures is None else self.mixtures.mix(weights)
        if mixed.shape != (len(self.domains),):
            raise ShardError(
                f"{self.folder}: expected the {mixed.size} domains that the step is trained on, "
                f"found {len(self.domains)}"
            )
        return mixed

    def _check_shards(self, layout: BatchLayout) -> None:
        if layout.shards == self.shards:
            return
        raise ShardError(
            f"{self.config.data.domains}: expected the shards that the step is trained on, found "
            f"others{self._differences()}"
        )

    def _differences(self) -> str:
        """Return the end of an error: the domains that differ, as far as a checkpoint tells."""
        try:
            checkpoints = completed_checkpoints(self.folder / CHECKPOINTS)
            header = load_header(checkpoints[-1])
        except (ResumeError, IndexError):
            return ""
        before: Any = header.identity.get("shards", {}).get("domains", {})
        if not isinstance(before, dict) or not isinstance(self.identity, Mapping):
            return ""
        lines = [
            f"{name}: expected {old or 'none'}, found {new or 'none'}"
            for name in {**before, **self.identity}
            if (old := before.get(name)) != (new := self.identity.get(name))
        ]
        more = f"; and {len(lines) - _MAX_NAMED} more" if len(lines) > _MAX_NAMED else ""
        return f": {'; '.join(lines[:_MAX_NAMED])}{more}" if lines else ""

    def _check_counts(self, metrics: Path, plan: BatchPlan, log: SamplingLog) -> None:
        """Compare a plan with the sequences of each domain that its step has logged."""
        if log.train is None:
            return
        drawn, counts = np.unique(plan.selection.domains, return_counts=True)
        names = [self.domains[index].name for index in drawn.tolist()]
        planned = dict(zip(names, counts.tolist(), strict=True))
        logged = log.train.get("sequences_by_domain")
        if logged != planned:
            raise ConfigError(
                f"{metrics}: train of step {log.train['step']}: sequences_by_domain: expected "
                f"{_shortened(planned)} by the seed, the weights and the shards, "
                f"found {_shortened(logged)}"
            )


def open_recorded(folder: Path, *, step: int) -> RecordedRun:
    """Open a run's folder and the shards of the domains that a step is trained on.

    Args:
        folder: The run's output folder.
        step: From 1.

    Raises:
        ConfigError: If it is not a run's.
        ResumeError: If the record of a revision is damaged.
        ShardError: If shards are missing or damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{folder}: expected the output folder of a run, found no {path}")
    config = load_config(path)
    applied = [revision for revision in recorded_revisions(folder) if revision.step < step]
    if applied:
        config = revised_config(config, applied[-1].data)
    if (share := config.mixing.resampled_uniformly) is not None:
        expected = "null: which windows were drawn depends on norms that are not in the metrics"
        found = f"{{uniform_share: {share:g}}}"
        raise config.invalid("mixing", "resample", expected=expected, found=found)
    domains, basis, identity = open_training(config)
    mixtures = None if basis is None else basis.mixtures
    return RecordedRun(folder, config, domains, mixtures, shards_digest(identity), identity)


def shards_digest(identity: Mapping[str, str] | str) -> str:
    """Return a digest of the domains' part of ``RunData.identity``."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def exact_until(log: SamplingLog) -> int | None:
    """Return the last step whose weights are known from a log that ends before it.

    None: they are known to the end, unless they are set by hand.
    """
    updates = log.sampler.layout.updates
    if updates is None or log.frozen:
        return None
    step = log.last_step + 1
    if log.last_step and updates.is_update(log.last_step) and not log.last_updated:
        step = log.last_step  # its update may be about to be written
    while not updates.is_update(step):
        step += 1
    return step


def _places(layout: BatchLayout) -> tuple[IntArray, IntArray]:
    """Return the rank and the micro-batch of each row of a global batch, both ``(B,)``."""
    ranks = np.empty(layout.global_batch_size, dtype=np.int64)
    micro_batches = np.empty_like(ranks)
    for rank in range(layout.ranks):
        rows = rank_rows(
            ranks.size,
            rank=rank,
            world_size=layout.ranks,
            micro_batch_size=layout.micro_batch_size,
        )
        ranks[rows] = rank
        micro_batches[rows] = np.arange(rows.shape[0])[:, np.newaxis]
    return ranks, micro_batches


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
