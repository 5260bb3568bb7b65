"""Seconds of an optimizer step and of an update, of what they consist, and of a whole run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from megadga.mixers.probing import InFlight, Sharded
from megadga.planning import communication, compute
from megadga.planning.communication import Collective, step_traffic, update_traffic
from megadga.planning.constants import Constants
from megadga.planning.memory import persistent_parameters
from megadga.planning.workload import Measuring, Workload


@final
@dataclass(frozen=True)
class Cluster:
    """Devices, and what they reach.

    Attributes:
        constants: Their rates.
        per_node: Devices of a node.
    """

    constants: Constants
    per_node: int

    def send_s(self, collectives: tuple[Collective, ...], ranks: int) -> float:
        """Return how long collectives take one after the other."""
        return sum(
            communication.seconds(each, self.constants, ranks, self.per_node)
            for each in collectives
        )


@final
@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step.

    Attributes:
        forward: Of all micro-batches' forward passes.
        backward: Of their backward passes.
        reduction: Of copying gradients into buckets.
        optimizer: Of the optimizer.
        communication: Of all collectives, whether something else goes on or not.
        exposed: Of what computation does not hide of them.
        slowed: That computation takes longer beside those that it hides.
    """

    forward: float
    backward: float
    reduction: float
    optimizer: float
    communication: float
    exposed: float
    slowed: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        computed = self.forward + self.backward + self.reduction + self.optimizer
        return computed + self.exposed + self.slowed


@final
@dataclass(frozen=True)
class UpdateTime:
    """Seconds that an update adds to training, in the mean over updates.

    Attributes:
        parts: By what takes them.
    """

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Seconds of the update."""
        return sum(self.parts.values())


def step_time(workload: Workload, cluster: Cluster) -> StepTime:
    """Return the seconds of a step without an update.

    ZeRO-3 gathers weights ahead of their use, and reduces gradients behind it: only what takes
    longer than the pass is exposed. So are reductions of ZeRO-1 and -2 with ``overlap_comm``;
    without it, and the gathering of new weights always, they are exposed whole. Hidden ones slow
    computation down, as they take multiprocessors and memory bandwidth.
    """
    constants, times = cluster.constants, workload.accumulation
    forward = compute.seconds(compute.forward_kernels(workload), constants)
    backward = compute.seconds(compute.backward_kernels(workload), constants)
    traffic, ranks = step_traffic(workload), workload.ranks
    ahead = cluster.send_s(traffic.forward, ranks)
    behind = cluster.send_s(traffic.backward, ranks)
    once = cluster.send_s(traffic.once, ranks)
    exposed = times * max(0.0, ahead - forward)
    exposed += times * (max(0.0, behind - backward) if workload.zero.overlap_comm else behind)
    if workload.zero.stage == 1 and workload.zero.overlap_comm:
        reduced = cluster.send_s(traffic.once[:1], ranks)
        exposed -= min(reduced, backward)
    reduction = compute.seconds(compute.reduction_kernels(workload), constants)
    everything, exposed = times * (ahead + behind) + once, exposed + once
    return StepTime(
        forward=times * forward,
        backward=times * backward,
        reduction=reduction * (times if workload.zero.stage >= 2 else 1),
        optimizer=compute.seconds(compute.optimizer_kernels(workload), constants),
        communication=everything,
        exposed=exposed,
        slowed=constants.overlap_cost.value * (everything - exposed),
    )


def update_time(workload: Workload, measuring: Measuring, cluster: Cluster) -> UpdateTime:
    """Return what an update takes beside the training that goes on without it."""
    probe, constants = measuring.probe, cluster.constants
    targets = measuring.num_targets
    domains = measuring.num_measured * probe.sequences_per_domain
    specific = _gradient_s(workload, measuring.specific_sequences, cluster)
    sent = cluster.send_s(update_traffic(workload, measuring), workload.ranks)
    drawing = constants.draw_s.value * measuring.num_measured
    if isinstance(probe, Sharded):
        each = _gradient_s(workload, probe.sequences_per_domain, cluster)
        return UpdateTime(
            {
                "specific gradient": targets * specific,
                "domains": targets * measuring.num_measured * each,
                "communication": sent,
                "drawing": drawing,
            }
        )
    full = probe.direction == "full"
    rank = None if probe.direction == "full" else probe.direction.most
    every = 1 if full else probe.direction_interval
    passes = 1 if full or measuring.preconditioned else 2
    parts = {
        "specific gradient": targets * passes * specific / every,
        "communication": sent / every,
    }
    if not full:
        matrices = 2 * targets * len(workload.decoder.matrices)
        parts["factors"] = matrices * constants.factorization_s.value / every
    along = targets * _derivatives_s(workload, domains, rank, cluster)
    if isinstance(probe, InFlight):
        hooked = compute.seconds(compute.tangent_kernels(workload, rank), constants)
        hooked += _direction_s(workload, full=full, cluster=cluster)
        parts["in flight"] = targets * workload.accumulation * hooked
        if probe.refresh_every is not None:
            parts["domains"] = along / probe.refresh_every
            parts["drawing"] = drawing / probe.refresh_every
    else:
        parts["domains"] = along
        parts["drawing"] = drawing
        if measuring.norms:
            each = _gradient_s(workload, probe.sequences_per_domain, cluster)
            parts["norms"] = measuring.num_measured * each
    return UpdateTime(parts)


def evaluation_time(workload: Workload, num_sequences: int, cluster: Cluster) -> float:
    """Return the seconds of forward passes over sequences, divided over the ranks."""
    gathers = step_traffic(workload).forward
    total = 0.0
    for rows in micro_batches(workload, num_sequences):
        own = replace(workload, micro_batch=rows)
        forward = compute.seconds(compute.forward_kernels(own), cluster.constants)
        ahead = cluster.send_s(gathers, workload.ranks)
        total += max(forward, ahead) + cluster.constants.overlap_cost.value * min(forward, ahead)
    return total


def micro_batches(workload: Workload, num_sequences: int) -> tuple[int, ...]:
    """Return the sequences of each micro-batch that a rank passes, at most.

    All but the last are full; the rest is divided evenly, so that one sequence for all ranks takes
    as long as one for each (`megadga.data.rows.weighted_rank_rows`).
    """
    at_once = workload.ranks * workload.micro_batch
    full, rest = divmod(num_sequences, at_once)
    last = (-(-rest // workload.ranks),) if rest else ()
    return (workload.micro_batch,) * full + last


def _gradient_s(workload: Workload, num_sequences: int, cluster: Cluster) -> float:
    """Return the seconds of gradients of sequences: as training, without the reduction."""
    traffic = step_traffic(workload)
    total = 0.0
    for rows in micro_batches(workload, num_sequences):
        own = replace(workload, micro_batch=rows)
        forward = compute.seconds(compute.forward_kernels(own), cluster.constants)
        backward = compute.seconds(compute.backward_kernels(own), cluster.constants)
        total += _with_gathers(workload, (forward, backward), traffic, cluster)
    return total


def _derivatives_s(
    workload: Workload, num_sequences: int, rank: int | None, cluster: Cluster
) -> float:
    """Return the seconds of derivatives of sequences along a direction."""
    traffic, constants = step_traffic(workload), cluster.constants
    sizes = micro_batches(workload, num_sequences)
    total = 0.0
    for rows in sorted(set(sizes)):
        own = replace(workload, micro_batch=rows)
        forward = compute.seconds(compute.forward_kernels(own), constants)
        backward = compute.seconds(compute.backward_kernels(own, weights=False), constants)
        backward += compute.seconds(compute.tangent_kernels(own, rank), constants)
        one = _with_gathers(workload, (forward, backward), traffic, cluster)
        one += _direction_s(workload, full=rank is None, cluster=cluster)
        total += sizes.count(rows) * one
    return total


def _with_gathers(
    workload: Workload,
    passes: tuple[float, float],
    traffic: communication.StepTraffic,
    cluster: Cluster,
) -> float:
    """Return the seconds of both passes, with the weights that ZeRO-3 gathers in them."""
    forward, backward = passes
    if workload.zero.stage < 3:
        return forward + backward
    ahead = cluster.send_s(traffic.forward, workload.ranks)
    again = cluster.send_s(traffic.backward[:1], workload.ranks)
    hidden = min(forward, ahead) + min(backward, again)
    slowed = cluster.constants.overlap_cost.value * hidden
    return max(forward, ahead) + max(backward, again) + slowed


def _direction_s(workload: Workload, *, full: bool, cluster: Cluster) -> float:
    """Return the seconds that ZeRO-3 gathers a whole direction in, for one micro-batch.

    Nothing else goes on meanwhile.
    """
    if not full or workload.zero.stage < 3 or workload.ranks == 1:
        return 0.0
    size = workload.decoder.used_parameters - persistent_parameters(workload)
    gathered = Collective(
        "all-gather",
        "direction",
        float(workload.element_bytes * size),
        len(workload.decoder.matrices),
    )
    return cluster.send_s((gathered,), workload.ranks)
