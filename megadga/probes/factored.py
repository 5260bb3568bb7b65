"""Low-rank factors of the preconditioned specific gradient, found in its shards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.mixers.probing import LowRank, LowRankEnergy
from megadga.probes.directions import (
    Preconditioning,
    UpdateDirection,
    specific_gradient,
)
from megadga.probes.gathering import gathered
from megadga.probes.gradients import Factors, ResidentDirection, full_shape, storage_scale
from megadga.probes.low_rank import fewest_directions, first_rank_factors, is_factored, qr
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import PackedSequences

_ITERATIONS = 2  # of the subspace: cheap beside the pass over the specific sequences


@dataclass(frozen=True, eq=False)
class _Found:
    """A direction, the same on every rank.

    Attributes:
        factors: Of each matrix ``G`` of ``d``: ``P`` with orthonormal columns, and ``G^T P``.
        whole: The other pieces of ``d``.
        squared_norm: ``|v|^2``.
        squared_length: ``|d|^2``.
        preconditioned: Whether ``d`` is ``v / D``.
        update: When it was measured.
    """

    factors: list[Factors]
    whole: list[Tensor]
    squared_norm: float
    squared_length: float
    preconditioned: bool
    update: int


@final
class FactoredGradient:
    """Takes the dominant singular directions of each matrix of ``d = v / D``.

    AdamW keeps ``D`` in the shards that the gradient is reduced to, so ``d`` is formed there, in
    one pass over the specific sequences. Its matrices are factored by subspace iterations in which
    every rank multiplies its part of a matrix; only the products, a few columns each, are summed
    over the ranks.

    Memory: shards of ``v`` and ``d`` while they are measured, and the factors on every rank.

    Args:
        passes: Measure the gradient.
        rank: How many columns the factors have.
        interval: Updates that a direction is used for, at least 1.
        seed: Addresses the columns that the first iterations start from.
        preconditioning: Whether the gradient is divided by ``D``, and what is done before there is
            one.
    """

    def __init__(
        self,
        passes: ProbePasses,
        rank: LowRank | LowRankEnergy,
        *,
        interval: int,
        seed: int,
        preconditioning: Preconditioning,
    ) -> None:
        self._passes = passes
        self._rank, self._share = rank.most, rank.share
        self._interval = interval
        self._seed = seed
        self._preconditioning = preconditioning
        self._names: list[str] = []
        self._found: _Found | None = None

    def direction(self, update: int, specific: PackedSequences) -> UpdateDirection:
        """See ``DirectionSource``; reused for ``interval`` updates. Collective."""
        if self._passes.names != self._names:
            self._names, self._found = self._passes.names, None
        found = self._found
        if found is None or update - found.update >= self._interval:
            found = self._measure(update, specific)
        return self._as_direction(found, age=update - found.update)

    def state_dict(self) -> dict[str, Any]:
        """Return the direction, which is used again or where the next iterations start."""
        if (found := self._found) is None:
            return {"parameters": list(self._names), "found": None}
        return {
            "parameters": list(self._names),
            "found": {
                "lefts": [each.left.cpu().clone() for each in found.factors],
                "rights": [each.right.cpu().clone() for each in found.factors],
                "whole": [piece.cpu().clone() for piece in found.whole],
                "squared_norm": found.squared_norm,
                "squared_length": found.squared_length,
                "preconditioned": found.preconditioned,
                "update": found.update,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self._names, self._found = list(state["parameters"]), None
        if (saved := state["found"]) is None:
            return
        device = self._passes.engine.device
        pairs = zip(saved["lefts"], saved["rights"], strict=True)
        self._found = _Found(
            factors=[Factors(left.to(device), right.to(device)) for left, right in pairs],
            whole=[piece.to(device) for piece in saved["whole"]],
            squared_norm=saved["squared_norm"],
            squared_length=saved["squared_length"],
            preconditioned=saved["preconditioned"],
            update=saved["update"],
        )

    def _measure(self, update: int, specific: PackedSequences) -> _Found:
        """Measure a direction, and remember it if it is finite. Collective."""
        passes, before = self._passes, self._found
        self._found = None  # nothing that is not needed is held during a pass
        starts = None if before is None else [each.right for each in before.factors]
        gradient = specific_gradient(passes, specific, self._preconditioning)
        parts = dict(
            zip(passes.parameters, passes.layout.parts(gradient.shard.values), strict=True)
        )
        matrices = [p for p in passes.parameters if self._is_factored(p)]
        others = [p for p in passes.parameters if not self._is_factored(p)]
        found = _Found(
            factors=self._factor(parts, matrices, starts),
            whole=list(gathered(others, parts, passes.collective).values()),
            squared_norm=gradient.squared_norm,
            squared_length=gradient.length**2,
            preconditioned=gradient.preconditioned,
            update=update,
        )
        if np.isfinite(found.squared_length):
            self._found = found
        return found

    def _is_factored(self, parameter: nn.Parameter) -> bool:
        return is_factored(full_shape(parameter), self._rank)

    def _factor(
        self,
        parts: Mapping[nn.Parameter, Tensor],
        matrices: Sequence[nn.Parameter],
        starts: Sequence[Tensor] | None,
    ) -> list[Factors]:
        """Return the factors of each matrix, with equal bits on every rank. Collective."""
        collective = self._passes.collective
        if not matrices:
            return []
        rights = list(starts or self._normal([full_shape(p) for p in matrices]))
        lefts: list[Tensor] = []
        for _ in range(_ITERATIONS):
            # Each rank's own factorization may have other signs, or mix columns of close singular
            # values: the first rank's are used.
            bases = collective.tensors_of_first_rank([qr(right)[0] for right in rights])
            products = [
                self._times(parts[p], full_shape(p), basis)
                for p, basis in zip(matrices, bases, strict=True)
            ]
            products = collective.agreed_sum_of_tensors(products)
            lefts = collective.tensors_of_first_rank([qr(product)[0] for product in products])
            products = [
                self._transposed_times(parts[p], full_shape(p), left)
                for p, left in zip(matrices, lefts, strict=True)
            ]
            rights = collective.agreed_sum_of_tensors(products)
        return [Factors(left, right) for left, right in zip(lefts, rights, strict=True)]

    def _times(self, part: Tensor, shape: torch.Size, columns: Tensor) -> Tensor:
        """Return this rank's summand of ``G @ columns``."""
        first, rows = self._rows(part, shape)
        product = columns.new_zeros((shape[0], columns.shape[1]))
        product[first : first + len(rows)] = rows @ columns
        return product

    def _transposed_times(self, part: Tensor, shape: torch.Size, columns: Tensor) -> Tensor:
        """Return this rank's summand of ``G^T @ columns``."""
        first, rows = self._rows(part, shape)
        return rows.T @ columns[first : first + len(rows)]

    def _rows(self, part: Tensor, shape: torch.Size) -> tuple[int, Tensor]:
        """Return the rows that this rank's part of a matrix touches, 0 outside of the part."""
        begin = min(self._passes.collective.rank * part.numel(), shape.numel())
        own = part[: shape.numel() - begin]
        first, skipped = divmod(begin, shape[1])
        number = -(-(skipped + own.numel()) // shape[1])
        after = number * shape[1] - skipped - own.numel()
        return first, nn.functional.pad(own, (skipped, after)).view(number, shape[1])

    def _normal(self, shapes: Sequence[torch.Size]) -> Iterator[Tensor]:
        """Yield normal columns for each matrix, the same on every rank."""
        for index, shape in enumerate(shapes):
            rng = np.random.default_rng((self._seed, index))
            values = rng.standard_normal((shape[1], self._rank), dtype=np.float32)
            yield torch.from_numpy(values).to(self._passes.engine.device)

    def _as_direction(self, found: _Found, *, age: int) -> UpdateDirection:
        passes, factors = self._passes, found.factors
        of_whole = sum(float(piece.double().square().sum()) for piece in found.whole)
        if self._share is not None:
            least = self._share * found.squared_length - of_whole
            factors = first_rank_factors(passes.collective, fewest_directions(factors, least))
        # Left factors have orthonormal columns.
        of_factors = sum(float(each.right.double().square().sum()) for each in factors)
        (kept,) = passes.collective.of_first_rank(np.array([of_whole + of_factors])).tolist()
        scale = storage_scale(passes.parameters, kept**0.5)
        pieces: dict[nn.Parameter, Tensor | Factors] = {}
        of_matrices, of_others = iter(factors), iter(found.whole)
        for parameter in passes.parameters:
            if self._is_factored(parameter):
                each = next(of_matrices)
                left, right = each.left, each.right * scale
                pieces[parameter] = Factors(left.to(parameter.dtype), right.to(parameter.dtype))
            else:
                pieces[parameter] = (next(of_others) * scale).to(parameter.dtype)
        return UpdateDirection(
            direction=ResidentDirection(pieces, scale=scale),
            squared_norm=found.squared_norm,
            length=kept**0.5,
            energy=min(1.0, kept / found.squared_length) if found.squared_length else 1.0,
            age=age,
            preconditioned=found.preconditioned,
        )
