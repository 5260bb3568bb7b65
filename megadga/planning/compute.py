"""Seconds that a device computes: matrix products, attention, and what is bound by memory.

Each operation takes the longer of its arithmetic and of its reads and writes, and a start that
large ones hide: so utilisation rises with the width and with the micro-batch by itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, final

from megadga.planning.constants import Constants
from megadga.planning.workload import Decoder, Workload

Kind = Literal["matmul", "attention", "memory"]


@final
@dataclass(frozen=True)
class Kernels:
    """Operations of one kind.

    Attributes:
        kind: What bounds them.
        flops: Of all of them.
        num_bytes: That all of them read and write.
        count: How many there are.
    """

    kind: Kind
    flops: float
    num_bytes: float
    count: int = 1

    def times(self, factor: int) -> "Kernels":
        """Return so many times these."""
        return Kernels(
            self.kind, self.flops * factor, self.num_bytes * factor, self.count * factor
        )


def seconds(kernels: Iterable[Kernels], constants: Constants) -> float:
    """Return how long operations take one after the other."""
    total = 0.0
    for each in kernels:
        rate = constants.attention_flops if each.kind == "attention" else constants.matmul_flops
        moving = each.num_bytes / constants.memory_bandwidth.value
        total += max(each.flops / rate.value, moving)
        total += each.count * constants.seconds_per_operation.value
    return total


def forward_kernels(workload: Workload) -> Iterator[Kernels]:
    """Yield the operations of a micro-batch's forward pass, the loss included."""
    decoder = workload.decoder
    for each in _block_forward(workload):
        yield each.times(decoder.num_layers)
    yield _product(workload, decoder.hidden_size, decoder.vocabulary_size)
    if decoder.compiled_loss:
        yield _loss(workload, 2.0 * workload.element_bytes, 2)
    else:
        yield _loss(workload, 14.0 if workload.element_bytes == 2 else 12.0, 4)
    yield _elementwise(workload, 2.0 * decoder.hidden_size * workload.element_bytes, 1)


def backward_kernels(workload: Workload, *, weights: bool = True) -> Iterator[Kernels]:
    """Yield the operations of a micro-batch's backward pass.

    Two products for each of the forward pass's, or one without gradients of the weights. Of
    attention two and a half times the arithmetic, of the rest twice the reads and writes. With
    activation checkpointing each block's forward pass once more.

    Args:
        workload: The run.
        weights: Whether gradients of the weights are formed.
    """
    decoder = workload.decoder
    for each in _block_forward(workload):
        match each.kind:
            case "matmul":
                yield each.times((2 if weights else 1) * decoder.num_layers)
            case "attention":
                doubled = Kernels("attention", 2.5 * each.flops, 2.0 * each.num_bytes, 2)
                yield doubled.times(decoder.num_layers)
            case "memory":
                yield each.times(2 * decoder.num_layers)
        if workload.checkpointing:
            yield each.times(decoder.num_layers)
    head = _product(workload, decoder.hidden_size, decoder.vocabulary_size)
    yield head.times(2 if weights else 1)
    if decoder.compiled_loss:
        yield _loss(workload, 2.0 * workload.element_bytes, 2)
    else:
        yield _loss(workload, 26.0 if workload.element_bytes == 2 else 16.0, 6)


def tangent_kernels(workload: Workload, rank: int | None) -> Iterator[Kernels]:
    """Yield what a micro-batch's derivatives along a direction add to a backward pass.

    Args:
        workload: The run.
        rank: Columns of the direction's factors; None: it is whole, and takes a product of each
            matrix's size.
    """
    decoder = workload.decoder
    matrices = [
        *(each for each in decoder.block_matrices for _ in range(decoder.num_layers)),
        (decoder.hidden_size, decoder.vocabulary_size),
    ]
    for inputs, outputs in matrices:
        if workload.on_cpu:  # the product with what is passed back, copied to float32 in parts
            moved, count = 2.0 * workload.tokens * outputs * (workload.element_bytes + 4.0), 2
        else:  # both are read once
            moved, count = 2.0 * workload.tokens * outputs * workload.element_bytes, 1
        if rank is None or rank * (inputs + outputs) >= inputs * outputs:
            yield _product(workload, inputs, outputs)
            yield Kernels("memory", 0.0, moved, count)
        else:
            flops = 2.0 * workload.tokens * rank * (inputs + outputs)
            read = workload.tokens * (inputs + outputs) * workload.element_bytes
            yield Kernels("matmul", flops, float(read), 2)
            # With those of other matrices, at least where they are small.
            yield Kernels("memory", 0.0, 8.0 * workload.tokens * rank, 1)


def optimizer_kernels(workload: Workload) -> Iterator[Kernels]:
    """Yield a step's operations on this rank's part of the parameters.

    Gradients to float32, their norm and clipping; AdamW, which reads four numbers and writes
    three; the weights in the run's precision.
    """
    size = workload.decoder.num_parameters / workload.partitions
    element = workload.element_bytes
    adam, count = (28.0, 4) if workload.zero.fused_optimizer else (84.0, 14)
    yield Kernels("memory", 0.0, size * (adam + 2 * (element + 4.0) + 12.0), count + 6)


def reduction_kernels(workload: Workload) -> Iterator[Kernels]:
    """Yield what DeepSpeed does to gradients on this rank before and after a reduction.

    They are copied into a bucket and divided there: each read and written twice.
    """
    size = workload.decoder.num_parameters
    count = 4 * len(workload.decoder.matrices)
    yield Kernels("memory", 0.0, 4.0 * workload.element_bytes * size, count)


def _block_forward(workload: Workload) -> list[Kernels]:
    decoder = workload.decoder
    products = [_product(workload, *shape) for shape in decoder.block_matrices]
    return [*products, _attention(workload), _between(workload, decoder)]


def _product(workload: Workload, inputs: int, outputs: int) -> Kernels:
    tokens, element = workload.tokens, workload.element_bytes
    moved = element * (tokens * (inputs + outputs) + inputs * outputs)
    return Kernels("matmul", 2.0 * tokens * inputs * outputs, float(moved))


def _attention(workload: Workload) -> Kernels:
    """Return causal attention in blocks: half of all pairs, and no matrix of scores."""
    decoder = workload.decoder
    flops = 2.0 * workload.tokens * workload.sequence_length * decoder.hidden_size
    features = 2 * decoder.hidden_size + 2 * decoder.kv_width
    return Kernels("attention", flops, float(workload.tokens * features * workload.element_bytes))


def _between(workload: Workload, decoder: Decoder) -> Kernels:
    """Return what a block does between its products, by reads and writes of each token.

    Norms, residuals and the activation count elements of the run's type, the rotation bytes of
    each rotated element.
    """
    element, width = workload.element_bytes, decoder.hidden_size
    hidden, rotated = decoder.intermediate_size, decoder.hidden_size + decoder.kv_width
    own_norms = 10 if workload.on_cpu else 4  # a norm is one kernel, on a CPU three
    match decoder.compiled, decoder.arithmetic:
        case "blocks", _:
            norms, residual, count = 4, 4, 6
            activation, rotation = 3, 2 * element
        case "functions", _:
            norms, residual, count = own_norms, 6, 7 + 4 * workload.on_cpu
            activation, rotation = 3, 2 * element
        case _, "transformers":
            norms, residual, count = 20, 6, 34
            # Halves are negated and joined, two products and a sum in float32, rounded.
            activation, rotation = 5, 5 * element + 20 + (6 if element == 2 else 0)
        case _:
            norms, residual, count = own_norms, 6, 24 - 4 * decoder.rotary + 4 * workload.on_cpu
            # A product, and a product added to each half, in float32; to that and back.
            activation, rotation = 5, 20 + (12 if element == 2 else 0)
    activation = activation if decoder.gated else 2
    rotation = rotation * rotated if decoder.rotary else 0
    moved = element * ((norms + residual) * width + activation * hidden) + rotation
    return Kernels("memory", 0.0, float(workload.tokens * moved), count)


def _loss(workload: Workload, bytes_per_score: float, count: int) -> Kernels:
    scores = workload.tokens * workload.decoder.vocabulary_size
    return Kernels("memory", 0.0, bytes_per_score * scores, count)


def _elementwise(workload: Workload, bytes_per_token: float, count: int) -> Kernels:
    return Kernels("memory", 0.0, bytes_per_token * workload.tokens, count)
