"""What is drawn for an update."""

from pathlib import Path

import numpy as np
import pytest

from megadga.alignment.drawing import ProbeDraws
from megadga.alignment.methods import ProbeBudget
from megadga.alignment.protocols import DrawnSequences
from megadga.shards.sequences import PADDING
from tests.support.shards import open_sets, open_unequal, write_sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"), num_domains=3)


def draws_of(folder: Path, *, seed: int = 5) -> ProbeDraws:
    domains, specific = open_sets(folder)
    budget = ProbeBudget(sequences_per_domain=4, specific_sequences=6)
    return ProbeDraws(domains, specific, budget=budget, seed=seed)


def drawn(draws: ProbeDraws, update: int) -> list[list[int]]:
    """The windows of an update: the specific set's first, then each domain's."""
    sets = [draws.specific(update), *(draws.domain(update, i) for i in range(draws.num_domains))]
    return [each.sequences.tolist() for each in sets]


def test_each_set_is_drawn_as_often_as_the_budget_says(folder: Path):
    assert [len(sequences) for sequences in drawn(draws_of(folder), 0)] == [6, 4, 4, 4]


def test_each_set_is_drawn_from_its_own_shards(folder: Path):
    draws = draws_of(folder)
    names = [draws.domain(0, i).domain.name for i in range(draws.num_domains)]
    assert names == ["d0", "d1", "d2"]
    assert draws.specific(0).domain.name == "specific"


def test_an_update_draws_the_same_windows_whatever_came_before(folder: Path):
    draws = draws_of(folder)
    drawn(draws, 0)
    draws.domain(1, 2)

    assert drawn(draws, 2) == drawn(draws_of(folder), 2)


def test_updates_and_seeds_draw_different_windows(folder: Path):
    first = drawn(draws_of(folder), 0)

    assert first != drawn(draws_of(folder), 1)
    assert first != drawn(draws_of(folder, seed=6), 0)


def test_drawn_sequences_read_the_rows_that_are_asked_for(folder: Path):
    domains, _ = open_sets(folder)
    drawn = DrawnSequences(domains[0], np.array([3, 1, 2]))

    read = drawn.read(np.array([2, 0]))

    np.testing.assert_array_equal(read, domains[0].windows(np.array([2, 3])))
    assert len(drawn) == 3


def test_drawn_sequences_count_their_own_targets(folder: Path):
    drawn = DrawnSequences(open_unequal(folder), np.array([1, 0, 3]))

    tokens = drawn.read(np.arange(3))

    assert drawn.num_targets().tolist() == (tokens[:, 1:] != PADDING).sum(axis=1).tolist()
    assert drawn.num_targets().tolist() == [8, 1, 8]  # documents of 2, 9, 3 and 40 tokens
