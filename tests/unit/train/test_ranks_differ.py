"""Ranks, as threads, compare what they should have in common."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from megadga.errors import RanksDifferError
from megadga.train.agreement import MAX_RANKS, ParameterAgreement, StepAgreement
from megadga.train.ranks import StepAllReduce
from tests.support.thread_ranks import ThreadRank, on_ranks
from tests.unit.train.fakes import batch

TOKENS = torch.zeros((1, 2, 6), dtype=torch.int64)
BATCH = batch(TOKENS, domains=[0, 1], rows=[[0, 1]], step=5)
WEIGHTS = np.array([0.25, 0.75])


class SummingRank:
    """Adds as an all-reduce does."""

    def __init__(self, rank: ThreadRank) -> None:
        self._rank = rank
        self.rank = rank.rank
        self.world_size = rank.world_size

    def merged(self, numbers: Any) -> Any:
        return np.sum(self._rank.objects(numbers), axis=0)


def compare(changed: Any, *, world_size: int = 3) -> list[Any]:
    """Take part in a step on every rank, of which the last one has other values."""

    def work(rank: ThreadRank) -> Any:
        chosen, weights = BATCH, WEIGHTS
        if rank.rank == world_size - 1:
            chosen, weights = changed
        term = StepAgreement(rank, lambda: weights)
        summed = StepAllReduce(SummingRank(rank), terms=(term,))
        return summed(chosen, torch.ones(1, 2))[0].tolist()

    return on_ranks(work, world_size)


def test_ranks_that_agree_go_on():
    assert compare((BATCH, WEIGHTS.copy())) == [[3.0, 3.0]] * 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"step": 6}, "step"),
        ({"global_domains": np.array([1, 0])}, "batch"),
        ({"global_sequences": np.array([0, 1])}, "batch"),
        ({}, "weights"),
    ],
)
def test_every_rank_names_the_one_that_differs_and_in_what(change, named):
    other = replace(BATCH, indices=replace(BATCH.indices, **change))
    weights = WEIGHTS if change else np.nextafter(WEIGHTS, 1.0)

    errors = compare((other, weights))

    assert all(isinstance(error, RanksDifferError) for error in errors)
    assert len({str(error).partition(":")[2] for error in errors}) == 1
    assert str(errors[0]).startswith("step 5: expected what rank 0 on ")
    assert str(errors[0]).endswith(f" ({named})")
    assert "found other values on rank 2 on " in str(errors[0])


def test_sums_of_squares_are_exact_for_the_largest_number_of_ranks():
    largest = float((2**20 - 1) ** 2)
    assert MAX_RANKS == 2**13
    assert (MAX_RANKS * largest) + largest != MAX_RANKS * largest
    assert MAX_RANKS * int(largest) < 2**53


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bit_that_has_flipped_in_a_parameter_is_found_where_there_are_copies(stage, dtype):
    def work(rank: ThreadRank) -> Any:
        module = nn.Linear(3, 2).to(dtype)
        for parameter in module.parameters():
            parameter.data.fill_(0.5)
        if rank.rank == 1:
            flipped = module.bias.data.view(torch.int32 if dtype.itemsize == 4 else torch.int16)
            flipped[1] ^= 1
        engine = SimpleNamespace(
            module=module, zero_optimization_partition_weights=lambda: stage == 3
        )
        return ParameterAgreement(rank, engine).check(4)

    found = on_ranks(work)

    if stage == 3:
        assert found == [None, None]
    else:
        assert all(isinstance(error, RanksDifferError) for error in found)
        assert str(found[0]).endswith("(parameter bias)")
