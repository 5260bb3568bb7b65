"""What is drawn for an update."""

from pathlib import Path

import numpy as np
import pytest

from megadga.data.sampler import Selection
from megadga.data.targets import PADDING
from megadga.mixers.base import Mixtures
from megadga.mixers.probing import DIRECTIONAL
from megadga.probes.sequences import (
    DomainSequences,
    MixtureSequences,
    ProbeSequences,
    ProbeSequenceSampler,
)
from tests.support.mixtures import identity, mixtures_of
from tests.support.probes import sized
from tests.support.shards import open_sets, open_unequal, write_sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"), num_domains=3)


def draws_of(
    folder: Path, *, seed: int = 5, mixtures: Mixtures | None = None
) -> ProbeSequenceSampler:
    domains, specific = open_sets(folder)
    probe = sized(DIRECTIONAL, 4, 6)
    return ProbeSequenceSampler(domains, specific, probe=probe, seed=seed, mixtures=mixtures)


def drawn(draws: ProbeSequenceSampler, update: int) -> list[list[int]]:
    """The windows of an update: the specific set's first, then each domain's."""
    sets = [draws.specific(update), *draws.all_measured(update)]
    return [sequences_of(each).sequences.tolist() for each in sets]


def sequences_of(drawn: ProbeSequences) -> DomainSequences:
    assert isinstance(drawn, DomainSequences)
    return drawn


def test_each_set_is_drawn_as_often_as_the_budget_says(folder: Path):
    assert [len(sequences) for sequences in drawn(draws_of(folder), 0)] == [6, 4, 4, 4]


def test_what_an_update_measures_is_each_domains_own(folder: Path):
    draws = draws_of(folder)

    found = [sequences_of(each).sequences.tolist() for each in draws.all_measured(2)]

    assert found == [sequences_of(draws.measured(2, i)).sequences.tolist() for i in range(3)]


def test_some_domains_are_drawn_as_they_are_among_all(folder: Path):
    draws = draws_of(folder)

    some = [sequences_of(each) for each in draws.measured_each(1, np.array([2, 0]))]

    every = [sequences_of(each) for each in draws.all_measured(1)]
    assert [each.domain.name for each in some] == ["d2", "d0"]
    assert [each.sequences.tolist() for each in some] == [
        every[index].sequences.tolist() for index in (2, 0)
    ]


def test_each_set_is_drawn_from_its_own_shards(folder: Path):
    draws = draws_of(folder)
    names = [sequences_of(draws.measured(0, i)).domain.name for i in range(draws.num_measured)]
    assert names == ["d0", "d1", "d2"]
    assert draws.specific(0).domain.name == "specific"


def test_an_update_draws_the_same_windows_whatever_came_before(folder: Path):
    draws = draws_of(folder)
    drawn(draws, 0)
    draws.measured(1, 2)

    assert drawn(draws, 2) == drawn(draws_of(folder), 2)


def test_updates_and_seeds_draw_different_windows(folder: Path):
    first = drawn(draws_of(folder), 0)

    assert first != drawn(draws_of(folder), 1)
    assert first != drawn(draws_of(folder, seed=6), 0)


def test_drawn_sequences_read_the_rows_that_are_asked_for(folder: Path):
    domains, _ = open_sets(folder)
    drawn = DomainSequences(domains[0], np.array([3, 1, 2]))

    read = drawn.read(np.array([2, 0]))

    np.testing.assert_array_equal(read, domains[0].windows(np.array([2, 3])))
    assert len(drawn) == 3


def test_drawn_sequences_count_their_own_targets(folder: Path):
    drawn = DomainSequences(open_unequal(folder), np.array([1, 0, 3]))

    tokens = drawn.read(np.arange(3))

    assert drawn.num_targets().tolist() == (tokens[:, 1:] != PADDING).sum(axis=1).tolist()
    assert drawn.num_targets().tolist() == [8, 1, 8]  # documents of 2, 9, 3 and 40 tokens


def test_mixtures_are_drawn_from_their_domains_by_share(folder: Path):
    draws = draws_of(folder, mixtures=mixtures_of([[0.5, 0.0, 0.5], [0.0, 0.25, 0.75]]))

    drawn = [draws.measured(3, index) for index in range(draws.num_measured)]

    owners = [each.selection.domains for each in drawn if isinstance(each, MixtureSequences)]
    assert [np.bincount(each, minlength=3).tolist() for each in owners] == [[2, 0, 2], [0, 1, 3]]
    assert len(drawn[0]) == 4
    assert draws.specific(3).sequences.tolist() == drawn_of_specific(folder, 3)


def drawn_of_specific(folder: Path, update: int) -> list[int]:
    return draws_of(folder).specific(update).sequences.tolist()


def test_the_identity_draws_what_the_domains_do(folder: Path):
    plain, mixed = draws_of(folder), draws_of(folder, mixtures=identity(3))

    for index in range(3):
        rows = np.arange(4)
        expected = plain.measured(2, index).read(rows)
        np.testing.assert_array_equal(mixed.measured(2, index).read(rows), expected)


def test_a_mixture_reads_the_rows_that_are_asked_for_and_counts_their_targets(folder: Path):
    domains, _ = open_sets(folder)
    padded = open_unequal(folder)
    selection = Selection(np.array([1, 0, 1, 0]), np.array([0, 5, 3, 2]))
    drawn = MixtureSequences((domains[0], padded), selection)

    read = drawn.read(np.array([3, 0, 2]))

    np.testing.assert_array_equal(read[0], domains[0].windows(np.array([2]))[0])
    np.testing.assert_array_equal(read[1:], padded.windows(np.array([0, 3])))
    targets = (drawn.read(np.arange(4))[:, 1:] != PADDING).sum(axis=1)
    assert drawn.num_targets().tolist() == targets.tolist()


def test_without_a_specific_set_the_target_is_all_that_is_drawn_of_the_domains(folder: Path):
    domains, _ = open_sets(folder)
    probe = sized(DIRECTIONAL, 4, 6)
    draws = ProbeSequenceSampler(domains, None, probe=probe, seed=5)

    target = draws.target(2)

    rows = np.arange(4)
    expected = np.concatenate([draws.measured(2, i).read(rows) for i in range(3)])
    np.testing.assert_array_equal(target.read(np.arange(len(target))), expected)
    of_specific = draws_of(folder).target(2)
    assert sequences_of(of_specific).domain.name == "specific"


def test_mixtures_have_nothing_to_be_compared_with_but_a_specific_set(folder: Path):
    domains, _ = open_sets(folder)
    with pytest.raises(ValueError, match="specific: expected a set to compare mixtures with"):
        ProbeSequenceSampler(domains, None, probe=DIRECTIONAL, seed=5, mixtures=identity(3))


def test_mixtures_of_other_domains_are_refused(folder: Path):
    with pytest.raises(ValueError, match="mixtures: expected some of 3 domains, found 2"):
        draws_of(folder, mixtures=identity(2))
