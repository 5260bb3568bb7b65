"""Bytes that a rank's collectives carry, and the seconds that they take."""

from dataclasses import dataclass
from typing import Literal, final

from megadga.planning.constants import Constants
from megadga.planning.memory import factor_elements, persistent_parameters
from megadga.planning.workload import Measuring, Workload

Operation = Literal["all-reduce", "reduce-scatter", "all-gather", "broadcast"]
_TEST_COLUMNS = 4
"""That estimate what factors leave out, beside their own (`megadga.probes.low_rank`)."""


@final
@dataclass(frozen=True)
class Collective:
    """Collectives of one kind.

    Attributes:
        operation: What they do.
        what: What they carry.
        payload: Bytes of the larger side: the whole tensor of an all-reduce, what goes into a
            reduce-scatter, what comes out of an all-gather.
        calls: How many there are.
    """

    operation: Operation
    what: str
    payload: float
    calls: int = 1

    def sent(self, ranks: int) -> float:
        """Return the bytes that a rank sends and receives, by a ring."""
        if self.operation == "broadcast":
            return self.payload
        share = (ranks - 1) / ranks * self.payload
        return 2.0 * share if self.operation == "all-reduce" else share


@final
@dataclass(frozen=True)
class StepTraffic:
    """Collectives of one optimizer step on one rank.

    Attributes:
        forward: In the forward pass of each micro-batch.
        backward: In the backward pass of each micro-batch.
        once: Once a step.
    """

    forward: tuple[Collective, ...] = ()
    backward: tuple[Collective, ...] = ()
    once: tuple[Collective, ...] = ()


def step_traffic(workload: Workload) -> StepTraffic:
    """Return what DeepSpeed sends in a step.

    ZeRO-0 and -1 reduce gradients once a step, ZeRO-2 and -3 for every micro-batch; under ZeRO-1
    and -2 DeepSpeed sums buckets by all-reduce (``use_multi_rank_bucket_allreduce``), and gathers
    the new weights once. ZeRO-3 gathers weights in every pass.
    """
    if workload.ranks == 1:
        return StepTraffic()
    size = workload.element_bytes * workload.decoder.num_parameters
    buckets = -(-workload.decoder.num_parameters // workload.zero.reduce_bucket)
    reduce = Collective("all-reduce", "gradients", size, buckets)
    gather = Collective("all-gather", "new weights", size, buckets)
    match workload.zero.stage:
        case 0:
            return StepTraffic(once=(reduce,))
        case 1:
            return StepTraffic(once=(reduce, gather))
        case 2:
            return StepTraffic(backward=(reduce,), once=(gather,))
        case 3:
            return _partitioned_traffic(workload)


def _partitioned_traffic(workload: Workload) -> StepTraffic:
    element, decoder = workload.element_bytes, workload.decoder
    kept = persistent_parameters(workload)
    calls = len(decoder.matrices)
    forward = Collective(
        "all-gather", "weights", element * (decoder.used_parameters - kept), calls
    )
    again = element * _gathered_again(workload, kept)
    reduced = Collective("reduce-scatter", "gradients", element * decoder.num_parameters, calls)
    if workload.zero.max_reuse_distance >= 2 * decoder.num_parameters:
        forward = Collective(
            "all-gather", "weights", element * (decoder.num_parameters - kept), calls
        )
    once = (Collective("all-gather", "small weights", element * kept),) if kept else ()
    backward = (Collective("all-gather", "weights", again, calls), reduced)
    return StepTraffic((forward,), backward, once)


def _gathered_again(workload: Workload, kept: int) -> int:
    """Return the parameters that a backward pass gathers again.

    A parameter ``d`` elements before the end of the forward pass is used again after ``2 d``: it
    is kept if that is within the distance. Under activation checkpointing a block's forward pass
    comes once more, and its parameters are used again as far from its end.
    """
    zero, decoder = workload.zero, workload.decoder
    near = min(zero.max_reuse_distance, zero.max_live) // 2
    used = decoder.used_parameters - kept
    again = used - min(used, near)
    if workload.checkpointing:
        block, last = decoder.block_parameters, decoder.intermediate_size * decoder.hidden_size
        again += decoder.num_layers * (block - min(block, max(near, last)))
    return again


def update_traffic(workload: Workload, measuring: Measuring) -> tuple[Collective, ...]:
    """Return what the probe sends for the direction of an update, when it is measured anew.

    Numbers of sequences, which are few, are left out; so is what ZeRO-3 gathers in each pass.
    """
    probe, size = measuring.probe, workload.decoder.num_parameters
    if workload.ranks == 1:
        return ()
    whole = 4.0 * size
    times = num_micro_batches(workload, measuring.specific_sequences) * measuring.num_targets
    calls = len(workload.decoder.matrices)
    reduced = Collective("reduce-scatter", "specific gradient", whole * times, calls * times)
    if probe.type == "sharded":
        each = num_micro_batches(workload, probe.sequences_per_domain)
        num = measuring.num_measured * each * measuring.num_targets
        domains = Collective("reduce-scatter", "domains' gradients", whole * num, calls * num)
        return (reduced, domains)
    if probe.direction == "full":
        spread = workload.element_bytes * size * measuring.num_targets
        gathered = Collective("all-gather", "direction", float(spread), calls)
        return (reduced,) if workload.zero.stage == 3 else (reduced, gathered)
    rank = probe.direction.most
    left, right = factor_elements(workload, rank)
    sketches, _ = factor_elements(workload, rank, extra=_TEST_COLUMNS)
    # Sums are agreed upon by a broadcast, and so are the bases that follow from them.
    summed = 4.0 * (sketches + right) * measuring.num_targets
    agreed = summed + 4.0 * (left + right) * measuring.num_targets
    factors = (
        Collective("all-reduce", "factors", summed, 2),
        Collective("broadcast", "factors", agreed, 4),
    )
    return (reduced, *factors) if measuring.preconditioned else factors


def num_micro_batches(workload: Workload, num_sequences: int) -> int:
    """Return how many micro-batches every rank passes for a number of sequences over all ranks."""
    return -(-num_sequences // (workload.ranks * workload.micro_batch))


def seconds(collective: Collective, constants: Constants, ranks: int, per_node: int) -> float:
    """Return how long collectives take.

    A node's devices send over the network together, and to each other at the same time: the slower
    of the two counts. Between ``n`` nodes a node sends ``(n - 1) / n`` of the payload (twice for
    an all-reduce) over all of its devices' network links.

    Args:
        collective: What is sent.
        constants: Rates of links, per device.
        ranks: Of the group, consecutive on each node.
        per_node: Ranks of a node.
    """
    if ranks == 1 or not collective.payload:
        return 0.0
    within = collective.sent(ranks) / constants.node_bandwidth.value
    nodes = -(-ranks // per_node)
    between = 0.0
    if nodes > 1:
        sent = collective.sent(nodes)
        between = sent / (constants.network_bandwidth.value * min(per_node, ranks))
    return max(within, between) + collective.calls * constants.collective_latency_s.value
