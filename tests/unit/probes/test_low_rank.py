"""A low-rank direction that serves several updates: measured once, made once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from megadga.arrays import FloatArray
from megadga.mixers.probing import LowRank
from megadga.probes.low_rank import LowRankGradient
from megadga.probes.sequences import PackedSequences

NO_SEQUENCES = cast("PackedSequences", None)


@dataclass
class OneRank:
    """The only rank, which counts its collectives."""

    calls: int = 0

    def of_first_rank(self, numbers: FloatArray) -> FloatArray:
        self.calls += 1
        return numbers

    def tensors_of_first_rank(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        return list(tensors)

    def agreed_sum_of_tensors(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        return list(tensors)


@dataclass
class Passes:
    """Passes over a model of one matrix of rank 2, and a bias, whose gradients are known."""

    collective: OneRank = field(default_factory=OneRank)
    engine: Any = field(default_factory=lambda: SimpleNamespace(device=torch.device("cpu")))
    parameters: list[nn.Parameter] = field(
        default_factory=lambda: [nn.Parameter(torch.zeros(8, 6)), nn.Parameter(torch.zeros(8))]
    )

    @property
    def names(self) -> list[str]:
        return ["weight", "bias"][: len(self.parameters)]

    def each_gradient(self, _: PackedSequences, take: Callable[[int, Tensor], None]) -> float:
        numbers = np.random.default_rng(0).standard_normal((2, 8))
        matrix = np.outer(numbers[0], np.arange(6)) + np.outer(numbers[1], np.ones(6))
        for index, gradient in enumerate([matrix, numbers[0]][: len(self.parameters)]):
            take(index, torch.from_numpy(gradient).float())
        return 1.0


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.fixture
def source(passes: Passes) -> LowRankGradient:
    return LowRankGradient(cast("Any", passes), LowRank(rank=2), interval=3, seed=0)


def test_updates_of_an_interval_share_one_direction_and_communicate_nothing(
    passes: Passes, source: LowRankGradient
):
    first = source.direction(0, NO_SEQUENCES)
    before = passes.collective.calls

    later = [source.direction(update, NO_SEQUENCES) for update in (1, 2)]

    assert passes.collective.calls == before
    assert [each.direction for each in later] == [first.direction] * 2
    assert [first.age, *(each.age for each in later)] == [0, 1, 2]
    assert first.energy == pytest.approx(1.0)
    assert source.direction(3, NO_SEQUENCES).age == 0
    assert passes.collective.calls > before


def test_it_is_measured_anew_if_others_train(passes: Passes, source: LowRankGradient):
    source.direction(0, NO_SEQUENCES)
    bias = passes.parameters[1]
    passes.parameters = passes.parameters[:1]

    found = source.direction(1, NO_SEQUENCES)

    assert found.age == 0
    assert bias not in found.direction


def test_a_checkpoint_inside_an_interval_continues_along_the_same_direction(
    passes: Passes, source: LowRankGradient
):
    first = source.direction(0, NO_SEQUENCES)
    resumed = LowRankGradient(cast("Any", passes), LowRank(rank=2), interval=3, seed=1)
    resumed.direction(0, NO_SEQUENCES)

    resumed.load_state_dict(source.state_dict())

    found = resumed.direction(1, NO_SEQUENCES)
    assert found.age == 1
    for parameter in passes.parameters:
        assert (
            found.direction.dense(parameter).tolist() == first.direction.dense(parameter).tolist()
        )
