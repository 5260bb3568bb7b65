"""Derivatives along a direction as autograd has them, in float64: what tangents are held to."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from megadga.probes.choosing_tangents import choose_tangent
from megadga.probes.gradients import Direction, Factors
from megadga.probes.sequence_rows import SequenceRows, SequenceSums
from megadga.probes.state import random_states
from megadga.probes.tangents import BackwardCall, Call, output_tensors

ROUNDINGS = 4096
"""Bounds the terms of any sum that a test differentiates; each rounds by an epsilon at most."""

M = TypeVar("M", bound=nn.Module)
Pieces = Mapping[nn.Parameter, Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def filled(module: M) -> M:
    """Give a module float64 parameters none of which is 0 or 1 as they often start."""
    module.double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=seed))
    return module


def pieces_of(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """A direction with a piece for every trainable parameter."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    return {p: normal(*p.shape, seed=100 + seed) for seed, p in enumerate(trainable)}


def thin(pieces: Pieces, rank: int = 2) -> tuple[dict[nn.Parameter, Tensor | Factors], Pieces]:
    """The same with thin factors for matrices; and with the products of these."""
    factored: dict[nn.Parameter, Tensor | Factors] = dict(pieces)
    for seed, (parameter, piece) in enumerate(pieces.items()):
        if piece.ndim == 2:
            rows, columns = piece.shape
            left = normal(rows, rank, seed=200 + seed)
            factored[parameter] = Factors(left, normal(columns, rank, seed=300 + seed))
    products = {
        parameter: piece.left @ piece.right.T if isinstance(piece, Factors) else piece
        for parameter, piece in factored.items()
    }
    return factored, products


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Gradients of a loss that may be asked for others afterwards; 0 where it has none."""
    return torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def assert_along(
    found: Tensor, losses: Sequence[Tensor], pieces: Pieces, *, dtype: torch.dtype = torch.float64
) -> None:
    """Compare with ``<grad of each loss, pieces>``, relative to ``|grad| |pieces|``.

    Args:
        found: Shape ``(B,)``.
        losses: ``B`` of them.
        pieces: The direction, dense.
        dtype: The coarsest that is computed in.
    """
    parameters = list(pieces)
    v = torch.cat([pieces[p].flatten() for p in parameters])
    assert found.dtype == torch.float64
    assert found.shape == (len(losses),)
    for number, loss in zip(found, losses, strict=True):
        g = torch.cat([each.flatten() for each in gradients_of(loss, parameters)])
        scale = g.norm() * v.norm()
        assert scale > 0.0
        assert (number - g @ v).abs() <= ROUNDINGS * torch.finfo(dtype).eps * scale


def losses_of(tensors: Sequence[Tensor]) -> Tensor:
    """A curved loss of each sequence, of outputs that are all batch first: shape ``(B,)``."""
    parts = [
        (normal(*tensor.shape, seed=400 + seed) * tensor.square()).flatten(1).sum(1)
        for seed, tensor in enumerate(tensors)
    ]
    return torch.stack(parts).sum(0)


def check_tangent(
    module: nn.Module,
    direction: Direction,
    pieces: Pieces,
    *positional: object,
    named: Mapping[str, object] | None = None,
    num_sequences: int,
    in_loss: slice = slice(None),
) -> None:
    """Hold the tangent that is chosen for a module to autograd.

    Args:
        module: Is called once.
        direction: What the tangent gets.
        pieces: The same, dense.
        positional: Arguments of the call.
        named: Its keyword arguments.
        num_sequences: Along the first axis of every output, or that is 1 and they share it.
        in_loss: Which of the outputs the loss depends on.
    """
    named = named or {}
    call = Call(positional, named, random_states(torch.device("cpu")))
    tensors = output_tensors(module(*positional, **named))
    tangent = choose_tangent(module, direction)
    assert tangent is not None
    with torch.no_grad():  # as in the hooks' identity function
        kept = tangent.kept(call)
    batched = [tensor.expand(num_sequences, *tensor.shape[1:]) for tensor in tensors]
    leaves = [tensor.detach().requires_grad_() for tensor in batched]
    loss = losses_of(leaves[in_loss]).sum()
    deltas = torch.autograd.grad(loss, leaves, allow_unused=True)
    sums = SequenceSums()
    rows = [SequenceRows(num_sequences)] * len(tensors)
    with torch.no_grad():  # as in a backward pass
        tangent.add_derivatives(sums, BackwardCall(deltas, kept, rows))
    found = sums.total()
    assert found is not None
    assert_along(found, list(losses_of(batched[in_loss])), pieces)
