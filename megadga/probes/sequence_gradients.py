"""Each sequence's gradient of its own loss, projected, from the backward pass that trains.

A linear layer with input ``x_t`` and output gradient ``d_t`` at position ``t`` has, of one
sequence, the gradient ``G = sum_t d_t x_t^T``. Both sides are projected before they are
multiplied, so that no ``G`` is ever formed: ``sum_t (L d_t) (R x_t)^T = L G R^T``, as in LoGra
(arXiv 2405.13954) and, for data value embeddings, arXiv 2412.09538. The hooks read inputs of
modules and gradients of their outputs, and return nothing: the pass computes what it would
without them.
"""

import hashlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from megadga.errors import UnsupportedEngineError
from megadga.probes.gradients import full_shape
from megadga.run_folder.trace import kept_shape

_MATRIX = 2


@dataclass(frozen=True)
class Projection:
    """How gradients are projected.

    Attributes:
        dimension: Numbers that each side of a parameter is projected to at most; a side that has
            no more is kept as it is. None: nothing is projected.
        seed: Addresses the projections, together with the parameter's name and side.
    """

    dimension: int | None
    seed: int

    def kept(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a parameter's gradient after it was projected."""
        return kept_shape(shape, self.dimension)

    def matrix(self, name: str, side: int, size: int) -> Tensor | None:
        """Return random signs over the root of their number, float32, shape ``(size, dimension)``.

        Inner products of what is multiplied with them are those before, in expectation.

        Args:
            name: The parameter's.
            side: Which of its axes.
            size: Its length. None is returned if the axis is kept.
        """
        if self.dimension is None or size <= self.dimension:
            return None
        address = hashlib.blake2b(f"trace/{self.seed}/{name}/{side}".encode(), digest_size=8)
        generator = torch.Generator().manual_seed(int.from_bytes(address.digest(), "little"))
        signs = torch.randint(0, 2, (size, self.dimension), generator=generator)
        return (2.0 * signs - 1.0) / math.sqrt(self.dimension)


@dataclass(frozen=True)
class Piece:
    """The part of a projected gradient that is one parameter's.

    Attributes:
        name: The parameter's name in the module.
        shape: Of the parameter: that of a matrix or of a vector.
        kept: Of its projected gradient.
    """

    name: str
    shape: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers of the projected gradient."""
        return math.prod(self.kept)


def find_pieces(module: nn.Module, projection: Projection) -> tuple[Piece, ...]:
    """Return the pieces of a module's projected gradient, in the order of its parameters.

    Matrices have to be those of linear layers and embeddings. Vectors are their biases, and the
    weights and biases of torch's norms; other vectors are left out.

    Raises:
        UnsupportedEngineError: Naming a matrix of another kind of module.
    """
    owners = {p: owner for owner in module.modules() for p in owner.parameters(recurse=False)}
    seen = {p for owner in module.modules() for p in _covered(owner)}
    pieces: list[Piece] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = tuple(full_shape(parameter))
        if parameter in seen:
            pieces.append(Piece(name, shape, projection.kept(shape)))
        elif len(shape) >= _MATRIX:
            raise UnsupportedEngineError(
                "trace: expected matrices of linear layers and embeddings alone, found "
                f"{name} of a {type(owners[parameter]).__name__}"
            )
    return tuple(pieces)


def _covered(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a module itself whose gradients hooks can tell by sequence."""
    match module:
        case nn.Linear() | nn.RMSNorm() | nn.LayerNorm():
            found = (module.weight, getattr(module, "bias", None))
        case nn.Embedding():
            found = (module.weight,)
        case _:
            found = ()
    return [each for each in found if isinstance(each, nn.Parameter)]


@final
class SequenceGradients:
    """Collects the projected gradient of every sequence of a micro-batch.

    Memory: the projections, ``dimension`` numbers for each row and column of every parameter; of
    a micro-batch, the projected inputs of all modules between the passes, and the result.

    Args:
        module: The whole model. Modules get and return sequences along the first axis.
        projection: How gradients are projected.
        device: Of the module.

    Attributes:
        pieces: See ``find_pieces``.

    Raises:
        UnsupportedEngineError: Likewise.
    """

    def __init__(self, module: nn.Module, projection: Projection, device: torch.device) -> None:
        self._module = module
        self.pieces = find_pieces(module, projection)
        self._sides = {
            piece.name: [
                None if matrix is None else matrix.to(device)
                for matrix in (
                    projection.matrix(piece.name, side, size)
                    for side, size in enumerate(piece.shape)
                )
            ]
            for piece in self.pieces
        }
        self._num_sequences: int | None = None
        self._sums: dict[str, Tensor] = {}

    @property
    def size(self) -> int:
        """Numbers of a sequence's projected gradient."""
        return sum(piece.size for piece in self.pieces)

    @contextmanager
    def collecting(self, num_sequences: int) -> Generator[list[Tensor]]:
        """Hook the modules for some forward and backward passes; forward passes without are free.

        Args:
            num_sequences: Of each micro-batch.

        Yields:
            A list that has, in the end, of each micro-batch the gradients by sequence of whatever
            loss was differentiated, on the CPU: float32, or the module's higher precision, shape
            ``(num_sequences, size)``.

        Raises:
            UnsupportedEngineError: If a parameter was not reached, or elsewhere than in the module
                that owns it; or outputs of a module do not have sequences along the first axis.
        """
        found: list[Tensor] = []

        def begin(*_: Any) -> None:
            if torch.is_grad_enabled():
                self._flush(found)
                self._num_sequences = num_sequences

        names = {parameter: name for name, parameter in self._module.named_parameters()}
        with ExitStack() as stack:
            stack.callback(self._forget)
            stack.callback(self._module.register_forward_pre_hook(begin).remove)
            for place, child in self._module.named_modules():
                owned = {
                    key: names[parameter]
                    for key, parameter in child.named_parameters(recurse=False)
                    if names[parameter] in self._sides
                }
                if owned:
                    see = partial(self._see, place, owned)
                    stack.callback(child.register_forward_hook(see).remove)
            yield found
            self._flush(found)

    def _flush(self, found: list[Tensor]) -> None:
        """Append the gradients of the micro-batch that has passed, if one has."""
        if self._num_sequences is None:
            return
        missing = [piece.name for piece in self.pieces if piece.name not in self._sums]
        if missing:
            raise UnsupportedEngineError(
                "trace: expected every parameter in the loss, through the module that owns it, "
                f"found {', '.join(missing[:3])} without a gradient"
            )
        parts = [self._sums[piece.name].flatten(1) for piece in self.pieces]
        found.append(torch.cat(parts, dim=1).cpu())
        self._forget()

    def _forget(self) -> None:
        self._num_sequences, self._sums = None, {}

    def _see(
        self,
        place: str,
        owned: Mapping[str, str],
        module: nn.Module,
        inputs: tuple[Any, ...],
        output: Any,
    ) -> None:
        if self._num_sequences is None or not output.requires_grad:
            return
        if output.shape[0] != self._num_sequences or len(inputs) != 1:
            raise UnsupportedEngineError(
                f"trace: expected {place} to return {self._num_sequences} sequences along its "
                f"first axis, found {len(inputs)} inputs and an output of {tuple(output.shape)}"
            )
        terms = list(self._terms(module, owned, inputs[0].detach()))

        def take(gradient: Tensor) -> None:
            with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
                precise = gradient.to(_precise(gradient.dtype))
                for name, term in terms:
                    found = term(precise)
                    self._sums[name] = self._sums[name] + found if name in self._sums else found

        output.register_hook(take)

    def _terms(
        self, module: nn.Module, owned: Mapping[str, str], inputs: Tensor
    ) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield how the gradient of each parameter follows from that of the output."""
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            for key, name in owned.items():
                sides = self._sides[name]
                if key == "bias":
                    yield name, partial(_of_bias, side=sides[0])
                elif isinstance(module, nn.Embedding):
                    yield name, partial(_of_embedding, ids=inputs, module=module, sides=sides)
                elif isinstance(module, nn.Linear):
                    right = _projected(inputs.to(_precise(inputs.dtype)), sides[1])
                    yield name, partial(_of_linear, right=right, side=sides[0])
                else:
                    yield name, partial(_of_scale, inputs=inputs, module=module, side=sides[0])


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _projected(values: Tensor, side: Tensor | None) -> Tensor:
    return values if side is None else values @ side.to(values.dtype)


def _summed(left: Tensor, right: Tensor) -> Tensor:
    """Return the sum of outer products over all axes but the first and the last."""
    return left.flatten(1, -2).transpose(1, 2) @ right.flatten(1, -2)


def _of_linear(gradient: Tensor, *, right: Tensor, side: Tensor | None) -> Tensor:
    return _summed(_projected(gradient, side), right)


def _of_embedding(
    gradient: Tensor, *, ids: Tensor, module: nn.Embedding, sides: Sequence[Tensor | None]
) -> Tensor:
    if (rows := sides[0]) is None:
        left = functional.one_hot(ids, module.num_embeddings).to(gradient.dtype)
    else:
        left = rows.to(gradient.dtype)[ids]
    if module.padding_idx is not None:
        left = left.masked_fill((ids == module.padding_idx).unsqueeze(-1), 0.0)
    return _summed(left, _projected(gradient, sides[1]))


def _of_bias(gradient: Tensor, *, side: Tensor | None) -> Tensor:
    return _projected(gradient.flatten(1, -2).sum(1), side)


def _of_scale(
    gradient: Tensor, *, inputs: Tensor, module: nn.Module, side: Tensor | None
) -> Tensor:
    """Return that of a norm's weight, by which its normalised input is multiplied."""
    precise = inputs.to(gradient.dtype)
    match module:
        case nn.RMSNorm(normalized_shape=shape, eps=epsilon):
            normalised = functional.rms_norm(precise, list(shape), eps=epsilon)
        case nn.LayerNorm(normalized_shape=shape, eps=epsilon):
            normalised = functional.layer_norm(precise, list(shape), eps=epsilon)
        case _:
            raise AssertionError(module)
    return _projected((gradient * normalised).flatten(1, -2).sum(1), side)
