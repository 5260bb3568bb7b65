import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.rows import rank_rows, weighted_rank_rows

layouts = {"world_size": st.integers(1, 9), "micro_batch_size": st.integers(1, 9)}


def everyone(deal, rows, world_size, micro_batch_size):
    layout = {"world_size": world_size, "micro_batch_size": micro_batch_size}
    return [deal(rows, rank=rank, **layout) for rank in range(world_size)]


def alike(num_rows):
    return np.ones(num_rows, dtype=np.int64)


@given(accumulation=st.integers(1, 9), **layouts)
def test_the_ranks_partition_the_global_batch(accumulation, world_size, micro_batch_size):
    num_rows = accumulation * world_size * micro_batch_size
    parts = everyone(rank_rows, num_rows, world_size, micro_batch_size)
    assert {part.shape for part in parts} == {(accumulation, micro_batch_size)}
    dealt = np.concatenate([part.ravel() for part in parts])
    np.testing.assert_array_equal(np.sort(dealt), np.arange(num_rows))


def test_rows_are_dealt_micro_batch_by_micro_batch():
    rows = rank_rows(12, rank=1, world_size=2, micro_batch_size=3)
    np.testing.assert_array_equal(rows, [[3, 4, 5], [9, 10, 11]])


def test_an_accumulation_step_is_the_same_set_on_more_ranks_with_smaller_micro_batches():
    few = np.stack(everyone(rank_rows, 48, 2, 8))
    many = np.stack(everyone(rank_rows, 48, 8, 2))
    for step in range(3):
        assert set(few[:, step].ravel()) == set(many[:, step].ravel())


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"world_size \* micro_batch_size = 2 \* 4, found 12"):
        rank_rows(12, rank=0, world_size=2, micro_batch_size=4)


@pytest.mark.parametrize("deal", [rank_rows, weighted_rank_rows])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 2}, "rank: expected 0 <= rank < 2, found 2"),
        ({"rank": -1}, "rank: expected"),
        ({"num_rows": 0}, "num_rows: expected at least 1"),
        ({"world_size": 0}, "world_size: expected at least 1"),
        ({"micro_batch_size": 0}, "micro_batch_size: expected at least 1"),
    ],
)
def test_an_argument_out_of_range_is_named(deal, change, message):
    arguments = {"num_rows": 8, "rank": 0, "world_size": 2, "micro_batch_size": 2} | change
    num_rows = arguments.pop("num_rows")
    with pytest.raises(ValueError, match=message):
        deal(num_rows if deal is rank_rows else alike(num_rows), **arguments)


def test_a_row_of_weight_zero_is_refused():
    with pytest.raises(ValueError, match="weights: expected at least 1 each, found 0"):
        weighted_rank_rows(np.array([3, 0, 1]), rank=0, world_size=1, micro_batch_size=2)


@given(num_rows=st.integers(1, 200), **layouts)
def test_every_rank_has_the_same_number_of_micro_batches(num_rows, world_size, micro_batch_size):
    parts = everyone(weighted_rank_rows, alike(num_rows), world_size, micro_batch_size)
    assert {len(part) for part in parts} == {math.ceil(num_rows / (world_size * micro_batch_size))}
    shares = list(chain.from_iterable(parts))
    assert all(1 <= share.rows.size <= micro_batch_size for share in shares)
    counted = np.concatenate([share.rows for share in shares if share.share > 0.0])
    np.testing.assert_array_equal(np.sort(counted), np.arange(num_rows))
    assert all(share.rows.size == 1 for share in shares if share.share == 0.0)
    assert sum(share.share for share in shares) == pytest.approx(1.0, abs=1e-12)


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=200), **layouts)
def test_weighted_means_over_shares_are_the_weighted_mean_over_rows(
    weights, world_size, micro_batch_size
):
    counts = np.array(weights)
    values = np.random.default_rng(0).normal(size=counts.size)
    parts = everyone(weighted_rank_rows, counts, world_size, micro_batch_size)
    found = sum(
        one.share * np.average(values[one.rows], weights=counts[one.rows])
        for part in parts
        for one in part
    )
    assert found == pytest.approx(np.average(values, weights=counts), abs=1e-12)


@given(num_rows=st.integers(1, 200), targets=st.integers(1, 5000), **layouts)
def test_equal_weights_are_equivalent_to_weights_of_one(
    num_rows, targets, world_size, micro_batch_size
):
    light = everyone(weighted_rank_rows, alike(num_rows), world_size, micro_batch_size)
    heavy = everyone(weighted_rank_rows, alike(num_rows) * targets, world_size, micro_batch_size)
    assert [[one.share for one in part] for part in light] == [  # equal bits
        [one.share for one in part] for part in heavy
    ]


@given(accumulation=st.integers(1, 5), **layouts)
def test_weighted_rows_equal_rank_rows_where_those_are_defined(
    accumulation, world_size, micro_batch_size
):
    num_rows = accumulation * world_size * micro_batch_size
    shared = everyone(weighted_rank_rows, alike(num_rows), world_size, micro_batch_size)
    dealt = everyone(rank_rows, num_rows, world_size, micro_batch_size)
    for shares, rows in zip(shared, dealt, strict=True):
        np.testing.assert_array_equal([share.rows for share in shares], rows)


def test_few_rows_are_spread_over_the_ranks():
    parts = everyone(weighted_rank_rows, alike(8), 4, 8)
    assert [part[0].rows.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_rank_without_rows_repeats_one_with_share_zero():
    parts = everyone(weighted_rank_rows, np.array([5, 1, 2]), 4, 1)
    assert [(part[0].rows.tolist(), part[0].share) for part in parts] == [
        ([0], 5 / 8),
        ([1], 1 / 8),
        ([2], 2 / 8),
        ([0], 0.0),
    ]
