"""Derivatives along a direction that is gathered in pieces, held to one that is at hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from megadga.probes.collective import PendingGather, ProcessGroupCollective
from megadga.probes.gathering import GatheredDirection, PieceOrder, gathered
from megadga.probes.gradients import ResidentDirection
from megadga.probes.passes import ProbePasses
from tests.support.probe_cases import ProbeCase
from tests.support.trainings import start_training


@dataclass
class WatchedRanks:
    """The ranks, and how many of their gathers were under way when the next one was asked for."""

    collective: ProcessGroupCollective
    under_way: list[int] = field(default_factory=list[int])
    _waiting: int = 0

    def all_gather(self, own: Tensor) -> Tensor:
        return self.collective.all_gather(own)

    def start_all_gather(self, own: Tensor) -> "WatchedGather":
        self._waiting += 1
        self.under_way.append(self._waiting)
        return WatchedGather(self.collective.start_all_gather(own), self)

    def ended(self) -> None:
        self._waiting -= 1


@dataclass
class WatchedGather:
    """A gather that tells when it was waited for."""

    gather: PendingGather
    ranks: WatchedRanks
    _ended: bool = False

    def rows(self) -> Tensor:
        if not self._ended:
            self.ranks.ended()
        self._ended = True
        return self.gather.rows()


def results_of(folder: Path, case: ProbeCase) -> dict[str, Any]:
    """Take derivatives of six micro-batches on each rank, along the specific gradient."""
    training = start_training(folder, case)
    passes = ProbePasses(training.engine, loss=training.probed.loss)
    specific = training.packed_specific(0)
    shard = passes.gradient(specific)
    parts = zip(passes.parameters, passes.layout.parts(shard.values), strict=True)
    own: Mapping[nn.Parameter, Tensor] = {p: part.to(p.dtype) for p, part in parts}
    ranks = WatchedRanks(passes.collective)
    travelling = GatheredDirection(dict(own), ranks, PieceOrder(), scale=1.0, small=0, ahead=0)
    whole = gathered(list(own), dict(own), passes.collective)
    found = [
        [passes.derivatives(specific, direction, micro_batch_size=1).along for _ in range(2)]
        for direction in (travelling, ResidentDirection(whole))
    ]
    training.engine.destroy()
    (first, again), (expected, _) = found
    return {
        "model": case.model,
        "equal": bool((first == expected).all() and (again == expected).all()),
        "any": bool(np.abs(expected).max() > 0.0),
        "under_way": ranks.under_way,
        "num_pieces": len(own),
        "numbers": [first.tolist(), ranks.under_way],
    }
