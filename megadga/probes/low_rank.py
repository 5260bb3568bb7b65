"""The specific gradient in low-rank factors, found without reducing or keeping it whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.mixers.probing import LowRank, LowRankEnergy
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.directions import UpdateDirection
from megadga.probes.gradients import Factors, ResidentDirection, full_shape, storage_scale
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import PackedSequences


def left_factors(sketches: Sequence[Tensor], rank: int) -> tuple[list[Tensor], float]:
    """Return orthonormal bases of what matrices were sketched to, and what they leave out.

    With a basis ``P`` of ``G Q``, ``|(I - P P^T) G|^2`` is the expectation of
    ``|(I - P P^T) G z|^2`` for normal ``z``: the mean over the columns of ``Z`` estimates it.

    Args:
        sketches: ``[G Q, G Z]`` of each matrix, shape ``(rows, rank + columns of Z)``.
        rank: Columns of ``G Q``, at most ``rows``.

    Returns:
        ``P`` of each, shape ``(rows, rank)``; and the sum of the estimates.
    """
    bases: list[Tensor] = []
    residual = 0.0
    for sketch in sketches:
        basis, _ = qr(sketch[:, :rank])
        tests = sketch[:, rank:]
        outside = tests - basis @ (basis.T @ tests)
        residual += float(outside.square().sum(dtype=torch.float64)) / tests.shape[1]
        bases.append(basis)
    return bases, residual


def fewest_directions(factors: Sequence[Factors], squared_norm: float) -> list[Factors]:
    """Keep the fewest singular directions, of all matrices, that hold a squared norm together.

    Args:
        factors: Their left ones have orthonormal columns.
        squared_norm: What the products are to hold; all directions are kept if they hold less,
            and none if it is not positive.

    Returns:
        Factors of each matrix's largest directions, orthonormal on the left again; of no columns
        where none is among those kept. As given if a number is not finite: they have none.
    """
    finite = all(bool(each.right.isfinite().all()) for each in factors)
    if not factors or not finite:
        return list(factors)
    decompositions = [_svd(each.right) for each in factors]
    squares = torch.cat([values.double().square() for _, values, _ in decompositions])
    descending = squares.sort(descending=True).values
    least = torch.inf
    if squared_norm > 0.0:
        num_others = int((descending.cumsum(0) < squared_norm).sum())
        least = float(descending[min(num_others, descending.numel() - 1)])
    kept: list[Factors] = []
    for each, (left, values, right) in zip(factors, decompositions, strict=True):
        number = int((values.double().square() >= least).sum())
        rotated = each.left @ right.T[:, :number]
        kept.append(Factors(rotated, left[:, :number] * values[:number]))
    return kept


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U``, the singular values in descending order, and ``V^T``, all of them thin."""
    decompose = cast("Callable[..., tuple[Tensor, Tensor, Tensor]]", torch.linalg.svd)
    return decompose(matrix, full_matrices=False)


qr = cast("Callable[[Tensor], tuple[Tensor, Tensor]]", torch.linalg.qr)


def is_factored(shape: torch.Size, rank: int) -> bool:
    """Tell whether a parameter is a matrix that factors of a rank are smaller than."""
    return len(shape) == 2 and rank * sum(shape) < shape.numel()


def first_rank_factors(
    collective: ProcessGroupCollective, own: Sequence[Factors]
) -> list[Factors]:
    """Return the first rank's factors, which may have other numbers of columns. Collective."""
    if not own:
        return []
    numbers = np.array([each.left.shape[1] for each in own], dtype=np.float64)
    pairs: list[Tensor] = []
    for each, columns in zip(own, collective.of_first_rank(numbers).astype(int), strict=True):
        for part in (each.left, each.right):
            same = part.shape[1] == columns
            pairs.append(part if same else part.new_empty((part.shape[0], columns)))
    pairs = collective.tensors_of_first_rank(pairs)
    return [Factors(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]


_TEST_COLUMNS = 4  # of Z: a matrix's estimate is off by about half, that of all by much less


@dataclass(frozen=True, eq=False)
class _Found:
    """What two passes over the specific sequences have left, float32.

    Attributes:
        lefts: ``P`` of each factored matrix, shape ``(rows, rank)``, orthonormal columns.
        rights: ``Q`` of each, shape ``(columns, rank)``.
        whole: Gradients of the other parameters.
        residual: Estimate of what is left out, in units of ``|v|^2``.
        update: When.
    """

    lefts: list[Tensor]
    rights: list[Tensor]
    whole: list[Tensor]
    residual: float
    update: int


@final
class LowRankGradient:
    """Takes the dominant singular directions of each matrix of the specific gradient.

    Memory: the factors, on every rank, and one matrix's gradient at a time.

    Args:
        passes: Measure it.
        rank: How many columns the factors have.
        interval: Updates that a direction is used for, at least 1.
        seed: Addresses the columns that the first direction starts from, and those of ``Z``.
    """

    def __init__(
        self,
        passes: ProbePasses,
        rank: LowRank | LowRankEnergy,
        *,
        interval: int = 1,
        seed: int,
    ) -> None:
        self._passes = passes
        self._rank, self._share = rank.most, rank.share
        self._interval = interval
        self._seed = seed
        self._looked_at: list[nn.Parameter] | None = None
        self._names: list[str] = []
        self._matrices: dict[int, torch.Size] = {}
        self._whole: dict[int, torch.Size] = {}
        self._starts: list[Tensor] | None = None
        self._found: _Found | None = None
        self._made: tuple[_Found, UpdateDirection] | None = None

    def direction(self, update: int, specific: PackedSequences) -> UpdateDirection:
        """See ``DirectionSource``; reused for ``interval`` updates. Collective."""
        self._look_again()
        found = self._found
        if found is None or update - found.update >= self._interval:
            if self._starts is None:
                self._iterate(update, specific)
            found = self._iterate(update, specific)
        if self._made is None or self._made[0] is not found:
            self._made = (found, self._as_direction(found))
        _, made = self._made
        if self._interval == 1:
            self._made = None
        return replace(made, age=update - found.update)

    def state_dict(self) -> dict[str, Any]:
        """Return where the next iteration starts, and the direction if it will be used again."""
        state: dict[str, Any] = {
            "parameters": list(self._names),
            "starts": None if self._starts is None else _on_cpu(self._starts),
        }
        if self._interval > 1 and (found := self._found) is not None:
            state["found"] = {
                "lefts": _on_cpu(found.lefts),
                "rights": _on_cpu(found.rights),
                "whole": _on_cpu(found.whole),
                "residual": found.residual,
                "update": found.update,
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        device = self._passes.engine.device

        def placed(tensors: list[Tensor]) -> list[Tensor]:
            return [tensor.to(device) for tensor in tensors]

        self._names, self._looked_at = list(state["parameters"]), None
        self._starts = None if state["starts"] is None else placed(state["starts"])
        self._found = None
        if (found := state.get("found")) is not None:
            tensors = {key: placed(found[key]) for key in ("lefts", "rights", "whole")}
            self._found = _Found(**tensors, residual=found["residual"], update=found["update"])

    def _look_again(self) -> None:
        """Begin anew if other parameters train than those that the last direction is of."""
        if self._looked_at is self._passes.parameters:
            return
        self._looked_at, self._made = self._passes.parameters, None
        if (names := self._passes.names) != self._names:
            self._names, self._starts, self._found = names, None, None
        shapes = [full_shape(parameter) for parameter in self._passes.parameters]
        self._matrices = {
            index: shape for index, shape in enumerate(shapes) if is_factored(shape, self._rank)
        }
        self._whole = {i: shape for i, shape in enumerate(shapes) if i not in self._matrices}

    def _iterate(self, update: int, specific: PackedSequences) -> _Found:
        """Take two half-steps, and remember where they led. Collective."""
        self._found = self._made = None  # nothing that is not needed is held during a pass
        lefts, residual = self._left_half(update, specific)
        self._starts = None
        shapes = [(shape[1], self._rank) for shape in self._matrices.values()]
        rights, whole = self._summed(
            specific, lambda place, gradient: gradient.T @ lefts[place], shapes
        )
        found = _Found(lefts, rights, whole, residual, update)
        # What is not finite is good for one update, which will be left out.
        finite = all(bool(part.isfinite().all()) for part in (*rights, *whole))
        self._found = found if finite else None
        # Each rank's own factorization may differ from the others': in signs, and by more where
        # singular values are close. What is summed next must be along one basis.
        starts = [torch.linalg.qr(right).Q for right in rights] if finite else None
        self._starts = starts and self._passes.collective.tensors_of_first_rank(starts)
        return found

    def _left_half(self, update: int, specific: PackedSequences) -> tuple[list[Tensor], float]:
        """Return ``P`` of each matrix, and an estimate of what is left out. Collective."""
        rank = self._rank
        starts = self._starts or self._normal(rank, 0)
        tests = self._normal(_TEST_COLUMNS, 1, update)
        shapes = [(shape[0], rank + _TEST_COLUMNS) for shape in self._matrices.values()]

        def sketch(place: int, gradient: Tensor) -> Tensor:
            return gradient @ torch.cat((starts[place], tests[place]), dim=1)

        sketches, _ = self._summed(specific, sketch, shapes)
        bases, residual = left_factors(sketches, rank)
        collective = self._passes.collective
        agreed = collective.of_first_rank(np.array([residual]))
        return collective.tensors_of_first_rank(bases), float(agreed[0])

    def _normal(self, columns: int, *address: int) -> list[Tensor]:
        """Return normal columns for each matrix, the same on every rank."""
        device = self._passes.engine.device
        drawn: list[Tensor] = []
        for index, shape in self._matrices.items():
            rng = np.random.default_rng((self._seed, *address, index))
            values = rng.standard_normal((shape[1], columns), dtype=np.float32)
            drawn.append(torch.from_numpy(values).to(device))
        return drawn

    def _summed(
        self,
        specific: PackedSequences,
        project: Callable[[int, Tensor], Tensor],
        shapes: Sequence[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Sum a projection of each matrix's gradient, and the others whole. Collective.

        Args:
            specific: What the gradient is of.
            project: From the place of a matrix and its gradient on this rank to a summand.
            shapes: Of the summands, for each matrix.
        """
        device = self._passes.engine.device
        places = {index: place for place, index in enumerate(self._matrices)}
        sums = [torch.zeros(shape, device=device) for shape in (*shapes, *self._whole.values())]
        sum_of = dict(zip((*self._matrices, *self._whole), sums, strict=True))

        def take(index: int, gradient: Tensor) -> None:
            summand = gradient.float()
            sum_of[index] += project(places[index], summand) if index in places else summand

        scale = self._passes.each_gradient(specific, take)
        agreed = self._passes.collective.agreed_sum_of_tensors(sums)
        if scale != 1.0:
            agreed = [each * scale for each in agreed]
        return agreed[: len(shapes)], agreed[len(shapes) :]

    def _as_direction(self, found: _Found) -> UpdateDirection:
        """Return the pieces that passes use, once for all updates that use them. Collective."""
        pairs = zip(found.lefts, found.rights, strict=True)
        factors = [Factors(left, right) for left, right in pairs]
        of_whole = _squared_norm(found.whole)
        total = of_whole + _squared_norm(found.rights) + found.residual
        if self._share is not None:
            own = fewest_directions(factors, self._share * total - of_whole)
            factors = first_rank_factors(self._passes.collective, own)
        # Left factors have orthonormal columns.
        kept = of_whole + _squared_norm([each.right for each in factors])
        numbers = self._passes.collective.of_first_rank(np.array([total, kept]))
        total, kept = map(float, numbers)
        parameters = self._passes.parameters
        scale = storage_scale(parameters, kept**0.5)
        pieces: dict[nn.Parameter, Tensor | Factors] = {}
        for index, each in zip(self._matrices, factors, strict=True):
            dtype = parameters[index].dtype
            right = each.right * scale
            pieces[parameters[index]] = Factors(each.left.to(dtype), right.to(dtype))
        for index, piece in zip(self._whole, found.whole, strict=True):
            pieces[parameters[index]] = (piece * scale).to(parameters[index].dtype)
        return UpdateDirection(
            direction=ResidentDirection(pieces, scale=scale),
            squared_norm=total,
            length=kept**0.5,
            energy=kept / total if total else 1.0,
        )


def _squared_norm(tensors: Sequence[Tensor]) -> float:
    return sum(float(tensor.square().sum(dtype=torch.float64)) for tensor in tensors)


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.cpu().clone() for tensor in tensors]
