"""From this rank's shard of a vector of the model's size to the pieces that tangents ask for.

Under ZeRO 0-2 every rank gets all pieces, once; under ZeRO-3 a matrix is gathered when a backward
pass has reached it, and forgotten. Knows no loss.
"""

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn

from megadga.alignment.directions import Direction, Factors, ResidentDirection
from megadga.alignment.gradient import GradientShard
from megadga.zero.engine import is_partitioned
from megadga.zero.layout import full_shape, num_elements
from megadga.zero.passes import ProbePasses

_BUCKET = 1 << 22  # elements that are gathered at once, and held twice while they are
_SMALL = 1 << 16  # elements of a piece that every rank keeps, under ZeRO-3 too


def spread_direction(passes: ProbePasses, shard: GradientShard) -> Direction:
    """Return the direction whose shards the ranks hold, in the parameters' own dtypes.

    Collective.
    """
    parts = dict(zip(passes.parameters, passes.layout.parts(shard.values), strict=True))
    own = {parameter: part.to(parameter.dtype) for parameter, part in parts.items()}
    if is_partitioned(passes.engine):
        return GatheredDirection(passes, own)
    return ResidentDirection(_gathered(passes, list(own), own))


@final
class GatheredDirection:
    """A direction of which each rank holds its part of the large pieces.

    Args:
        passes: Says how pieces are divided.
        own: This rank's part of each.
    """

    def __init__(self, passes: ProbePasses, own: dict[nn.Parameter, Tensor]) -> None:
        small = [p for p in own if num_elements(p) <= _SMALL]
        self._passes = passes
        self._resident = _gathered(passes, small, own)
        self._own = {p: part for p, part in own.items() if p not in self._resident}

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """See ``Direction``."""
        return parameter in self._resident or parameter in self._own

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """See ``Direction``: there are none."""
        assert parameter in self
        return None

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """See ``Direction``. Collective unless the piece is small."""
        if parameter in self._resident:
            return self._resident[parameter]
        return _gathered(self._passes, [parameter], self._own)[parameter]


def _gathered(
    passes: ProbePasses, parameters: Sequence[nn.Parameter], own: dict[nn.Parameter, Tensor]
) -> dict[nn.Parameter, Tensor]:
    """Return whole pieces, gathered bucket by bucket. Collective."""
    pieces: dict[nn.Parameter, Tensor] = {}
    for bucket in _buckets(parameters):
        parts = [own[p].flatten() for p in bucket]
        rows = passes.collective.all_gather(torch.cat(parts) if len(parts) > 1 else parts[0])
        columns = rows.split([own[p].numel() for p in bucket], dim=1)
        for parameter, column in zip(bucket, columns, strict=True):
            whole = column.reshape(-1)[: num_elements(parameter)]
            pieces[parameter] = whole.view(full_shape(parameter))
    return pieces


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Cut a list into stretches of one dtype and about one bucket's size."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        full = sum(map(num_elements, bucket)) >= _BUCKET
        if bucket and (full or bucket[0].dtype != parameter.dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
