"""What the aligner draws for an update, seen by a probe that only takes notes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from megadga.alignment.aligner import Aligner
from megadga.alignment.methods import ProbeBudget
from megadga.alignment.protocols import DrawnSequences
from megadga.mixing.scheduler import Alignments
from megadga.shards.sequences import PADDING
from tests.support.shards import open_sets, open_unequal, write_sets


class NotingProbe:
    """Keeps what it is asked to measure and reports zeros."""

    def __init__(self) -> None:
        self.asked: list[tuple[DrawnSequences, list[DrawnSequences]]] = []

    def measure(self, specific: DrawnSequences, domains: Sequence[DrawnSequences]) -> Alignments:
        self.asked.append((specific, list(domains)))
        return Alignments(np.zeros(len(domains)), np.ones(len(domains)), 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"), num_domains=3)


def measured(folder: Path, *updates: int, seed: int = 5) -> list[list[list[int]]]:
    """The windows drawn for each update: the specific set's first, then each domain's."""
    domains, specific = open_sets(folder)
    probe = NotingProbe()
    budget = ProbeBudget(sequences_per_domain=4, specific_sequences=6)
    aligner = Aligner(probe, domains, specific, budget=budget, seed=seed)
    for update in updates:
        aligner.measure(update)
    return [
        [drawn.sequences.tolist() for drawn in (asked_specific, *asked_domains)]
        for asked_specific, asked_domains in probe.asked
    ]


def test_each_set_is_drawn_as_often_as_the_budget_says(folder: Path):
    (drawn,) = measured(folder, 0)

    assert [len(sequences) for sequences in drawn] == [6, 4, 4, 4]


def test_an_update_draws_the_same_windows_whatever_came_before(folder: Path):
    assert measured(folder, 2)[0] == measured(folder, 0, 1, 2)[2]


def test_updates_and_seeds_draw_different_windows(folder: Path):
    first, second = measured(folder, 0, 1)

    assert first != second
    assert first != measured(folder, 0, seed=6)[0]


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


@pytest.mark.parametrize("name", ["sequences_per_domain", "specific_sequences"])
def test_a_budget_of_nothing_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, found 0"):
        ProbeBudget(**{name: 0})
