"""Sums of inner products of sequences, of operands that wait and of those that do not."""

import weakref

import pytest
import torch
from torch import Tensor

from megadga.probes.sequence_rows import SequenceRows, SequenceSums
from tests.support.derivatives import normal

B = 3
NUMBERS = torch.tensor([0, 2, 1, 1, 0, 2])
LAYOUTS: dict[str, tuple[SequenceRows, tuple[int, ...], list[list[int]]]] = {
    "a row each": (SequenceRows(B), (B, 2, 5), [[0], [1], [2]]),
    "parts of an axis": (SequenceRows(B, 1), (2, 6, 5), [[0, 1], [2, 3], [4, 5]]),
    "taking turns": (SequenceRows(B, 1, interleaved=True), (2, 6, 5), [[0, 3], [1, 4], [2, 5]]),
    "numbered": (SequenceRows(B, numbers=NUMBERS), (6, 5), [[0, 4], [2, 3], [1, 5]]),
}


def pair(*shape: int, seed: int) -> tuple[Tensor, Tensor]:
    return normal(*shape, seed=seed), normal(*shape, seed=seed + 1)


def total_of(sums: SequenceSums) -> Tensor:
    total = sums.total()
    assert total is not None
    return total


@pytest.mark.parametrize("times", [1, 5_000], ids=["few elements", "many elements"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_sequence_has_the_sum_of_its_products(layout: str, times: int):
    rows, shape, places = LAYOUTS[layout]
    left, right = pair(*shape[:-1], shape[-1] * times, seed=1)
    sums = SequenceSums()

    sums.add(left, right, rows)

    products = (left * right).movedim(rows.axis, 0)
    expected = torch.stack([products[own].sum() for own in places])
    torch.testing.assert_close(total_of(sums), expected)


def test_modules_of_all_sizes_and_dtypes_add_up():
    pairs = [pair(B, n, seed=n) for n in (1, 7, 300_001, 7, 90_000)]
    pairs[1] = pairs[1][0].float(), pairs[1][1].float()
    sums = SequenceSums()

    for left, right in pairs:
        sums.add(left, right, SequenceRows(B))

    expected = torch.stack([(left * right).sum(1).double() for left, right in pairs]).sum(0)
    torch.testing.assert_close(total_of(sums), expected, rtol=0.0, atol=1e-5)


def test_what_cancels_between_modules_is_added_up_in_float64():
    sums, features = SequenceSums(), 1 << 16  # too many to wait
    for value in (1e8, 1.0, -1e8):  # in float32 the second one would be lost
        left = torch.full((B, features), value / features)
        sums.add(left, torch.ones(B, features), SequenceRows(B))
    assert total_of(sums).tolist() == [1.0] * B


def test_more_may_be_added_after_the_sums_were_read():
    (first, second), rows = (pair(B, 4, seed=seed) for seed in (1, 3)), SequenceRows(B)
    sums = SequenceSums()
    sums.add(*first, rows)
    torch.testing.assert_close(total_of(sums), (first[0] * first[1]).sum(1))

    sums.add(*second, rows)

    expected = (first[0] * first[1]).sum(1) + (second[0] * second[1]).sum(1)
    torch.testing.assert_close(total_of(sums), expected)
    torch.testing.assert_close(total_of(sums), expected)


def test_nothing_added_has_no_sums():
    assert SequenceSums().total() is None


def test_operands_that_wait_are_few_and_gone_when_the_sums_are_read():
    sums, rows = SequenceSums(), SequenceRows(1)
    held: list[weakref.ref[torch.UntypedStorage]] = []
    most = 0
    for _ in range(200):
        left = torch.ones(1, 1 << 15)
        held.append(weakref.ref(left.untyped_storage()))
        sums.add(left, torch.ones_like(left), rows)
        del left
        most = max(most, sum(each() is not None for each in held))
    assert 100 < most <= 129
    assert total_of(sums).tolist() == [200.0 * (1 << 15)]
    assert all(each() is None for each in held)


def test_graphs_of_operands_are_not_kept():
    left = torch.ones(B, 2, requires_grad=True)
    sums = SequenceSums()
    sums.add(left * 2.0, torch.ones(B, 2), SequenceRows(B))
    assert not total_of(sums).requires_grad
