"""Sequences of several sets in one numbered list."""

from pathlib import Path

import numpy as np
import pytest

from megadga.arrays import IntArray
from megadga.probes.sequences import DomainSequences, PackedSequences
from tests.support.shards import SEQUENCE_LENGTH, open_sets, open_unequal, write_sets


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[DomainSequences]:
    """Three sequences, one, and two that are padded."""
    folder: Path = write_sets(tmp_path_factory.mktemp("sets"), num_domains=2)
    (first, second), _ = open_sets(folder)
    return [
        DomainSequences(first, np.array([4, 0, 2])),
        DomainSequences(second, np.array([3])),
        DomainSequences(open_unequal(folder), np.array([1, 0])),
    ]


@pytest.fixture
def tokens(sets: list[DomainSequences]) -> IntArray:
    """All of them, one set after another."""
    return np.concatenate([each.domain.windows(each.sequences) for each in sets])


def test_rows_are_numbered_set_after_set(sets: list[DomainSequences], tokens: IntArray):
    packed = PackedSequences(sets)

    assert packed.sets_of_rows.tolist() == [0, 0, 0, 1, 2, 2]
    np.testing.assert_array_equal(packed.read(np.arange(6)), tokens)


def test_each_row_knows_its_targets(sets: list[DomainSequences]):
    full = [SEQUENCE_LENGTH] * 4
    assert PackedSequences(sets).num_targets.tolist() == [*full, 8, 1]  # of 9 and 2 tokens


@pytest.mark.parametrize(
    "rows", [[5, 4, 3, 2, 1, 0], [3, 0, 5, 2], [1, 1, 4, 1], [2], [3], [5], [4, 0]]
)
def test_rows_are_read_in_the_order_that_they_are_asked_for_in(
    sets: list[DomainSequences], tokens: IntArray, rows: list[int]
):
    read = PackedSequences(sets).read(np.array(rows))

    np.testing.assert_array_equal(read, tokens[rows])


def test_one_set_is_itself(sets: list[DomainSequences], tokens: IntArray):
    packed = PackedSequences(sets[:1])

    assert packed.sets_of_rows.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(packed.read(np.array([2, 0])), tokens[[2, 0]])
