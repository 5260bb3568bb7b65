"""What a planned run comes to on a cluster, and which other settings would fit there."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from megadga.accelerators import Accelerator
from megadga.planning.communication import StepTraffic, step_traffic, update_traffic
from megadga.planning.duration import (
    Cluster,
    StepTime,
    UpdateTime,
    evaluation_time,
    step_time,
    update_time,
)
from megadga.planning.memory import Memory, predict_memory
from megadga.planning.reading import PlannedRun
from megadga.planning.workload import Stage, Workload

_CONTEXT_BYTES = 2 * 2**30
"""Of the driver and of NCCL, which torch does not count."""
_USABLE = 0.95
"""Share of memory that can be in use at once: the allocator leaves gaps."""
_HOST_COPY = 20e9
"""Bytes per second from a device to its host's pinned memory, for asynchronous checkpoints."""
_DAY_S = 86_400.0


@final
@dataclass(frozen=True)
class Prediction:
    """What a run comes to.

    Attributes:
        run: The run.
        memory: Of a rank.
        usable_bytes: Memory that a rank has for it.
        step: Seconds of a step without an update.
        update: Seconds of an update, if there are any.
        overhead: Share of training time that updates add over the whole run.
        evaluation_s: Seconds of an evaluation.
        checkpoint_bytes: Of a checkpoint, over all ranks.
        checkpoint_s: Seconds that it is written in.
        stalled_s: Seconds that training waits for it.
        tokens_per_s: Over all devices and the whole run.
        utilisation: Model FLOPs utilisation of a step without an update.
        days: Of the whole run.
        traffic: Collectives of a step.
        update_sent: Bytes that a rank sends for an update with a new direction.
    """

    run: PlannedRun
    memory: Memory
    usable_bytes: int
    step: StepTime
    update: UpdateTime | None
    overhead: float
    evaluation_s: float
    checkpoint_bytes: int
    checkpoint_s: float
    stalled_s: float
    tokens_per_s: float
    utilisation: float
    days: float
    traffic: StepTraffic
    update_sent: float

    @property
    def fits(self) -> bool:
        """Whether the run fits into a device's memory."""
        return self.memory.peak <= self.usable_bytes

    @property
    def step_sent(self) -> float:
        """Bytes that a rank sends in a step, by rings."""
        workload = self.run.workload
        each = (*self.traffic.forward, *self.traffic.backward)
        repeated = sum(one.sent(workload.ranks) for one in each) * workload.accumulation
        return repeated + sum(one.sent(workload.ranks) for one in self.traffic.once)


def usable_bytes(accelerator: Accelerator) -> int:
    """Return the memory that tensors may take: without driver and NCCL, and with gaps."""
    return int(_USABLE * (accelerator.memory_bytes - _CONTEXT_BYTES))


def predict(run: PlannedRun, accelerator: Accelerator, cluster: Cluster) -> Prediction:
    """Return what a run comes to.

    Args:
        run: The run.
        accelerator: What it trains on.
        cluster: What devices and links reach.
    """
    workload, measuring = run.workload, run.measuring
    step = step_time(workload, cluster)
    update = None if measuring is None else update_time(workload, measuring, cluster)
    updates = 0.0
    if update is not None and measuring is not None:
        updates = update.total * measuring.num_updates
    evaluation = evaluation_time(workload, run.num_evaluated, cluster)
    evaluations = _times(run.steps, run.evaluation_interval)
    size = checkpoint_bytes(workload)
    writing = size / cluster.constants.storage_bandwidth.value
    stalled = size / workload.ranks / _HOST_COPY if run.asynchronous else writing
    saved = _times(run.steps, run.checkpoint_interval)
    training = run.steps * step.total
    total = training + updates + evaluations * evaluation + saved * stalled
    tokens = run.steps * workload.tokens_per_step
    rate = workload.tokens_per_step / step.total
    flops = workload.decoder.flops_per_token(workload.sequence_length)
    sent = () if measuring is None else update_traffic(workload, measuring)
    return Prediction(
        run=run,
        memory=predict_memory(workload, measuring),
        usable_bytes=usable_bytes(accelerator),
        step=step,
        update=update,
        overhead=updates / training,
        evaluation_s=evaluation,
        checkpoint_bytes=size,
        checkpoint_s=writing,
        stalled_s=stalled,
        tokens_per_s=tokens / total,
        utilisation=rate * flops / (workload.ranks * accelerator.peak_flops),
        days=total / _DAY_S,
        traffic=step_traffic(workload),
        update_sent=sum(each.sent(workload.ranks) for each in sent),
    )


def checkpoint_bytes(workload: Workload) -> int:
    """Return the bytes of a checkpoint over all ranks.

    The weights in the run's precision, AdamW's two moments in float32, and float32 weights where
    the optimizer has its own.
    """
    element, zero = workload.element_bytes, workload.zero
    masters = 4 if zero.stage or element < 4 else 0
    return workload.decoder.num_parameters * (element + masters + 8)


def largest_micro_batch(run: PlannedRun, accelerator: Accelerator) -> int | None:
    """Return the largest micro-batch that fits, of those that divide a rank's share of the batch.

    None if not even one sequence fits.
    """
    usable = usable_bytes(accelerator)
    fitting = [
        each.workload.micro_batch
        for each in _micro_batches(run)
        if predict_memory(each.workload, each.measuring).peak <= usable
    ]
    return max(fitting, default=None)


def alternatives(run: PlannedRun) -> Iterator[PlannedRun]:
    """Yield the run under every stage, with and without activation checkpointing, as it is else.

    Each with every micro-batch that divides a rank's share of the batch.
    """
    stages: tuple[Stage, ...] = (0, 1, 2, 3)
    for stage in stages:
        given = run.workload.zero
        overlap = given.overlap_comm if stage == given.stage else stage == 3
        zero = replace(given, stage=stage, overlap_comm=overlap)
        for checkpointing in (False, True):
            workload = replace(run.workload, zero=zero, checkpointing=checkpointing)
            yield from _micro_batches(run.with_workload(workload))


def fastest_that_fit(
    run: PlannedRun, accelerator: Accelerator, cluster: Cluster
) -> list[Prediction]:
    """Return, for every stage with and without activation checkpointing, its best micro-batch.

    That is the fastest that fits; where none does, the one that takes the least memory.
    """
    groups: dict[tuple[Stage, bool], list[Prediction]] = {}
    for each in alternatives(run):
        key = (each.workload.zero.stage, each.workload.checkpointing)
        groups.setdefault(key, []).append(predict(each, accelerator, cluster))
    best: list[Prediction] = []
    for found in groups.values():
        fitting = [each for each in found if each.fits]
        if fitting:
            best.append(max(fitting, key=lambda each: each.tokens_per_s))
        else:
            best.append(min(found, key=lambda each: each.memory.peak))
    return best


def _micro_batches(run: PlannedRun) -> Iterator[PlannedRun]:
    workload = run.workload
    own = workload.micro_batch * workload.accumulation
    for size in range(1, own + 1):
        if own % size == 0:
            divided = replace(workload, micro_batch=size, accumulation=own // size)
            yield run.with_workload(divided)


def _times(steps: int, interval: int | None) -> int:
    return 0 if interval is None else -(-steps // interval)
