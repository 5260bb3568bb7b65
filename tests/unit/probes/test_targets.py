"""Several specific sets, measured one after the other."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.mixers.base import Alignments
from megadga.mixers.probing import DIRECTIONAL
from megadga.probes.measuring import Target, TargetMeasurement
from megadga.probes.sequences import PackedSequences, ProbeSequenceSampler, TrainedBatch
from tests.support.probes import sized
from tests.support.shards import open_sets, open_unequal, write_sets


@dataclass
class Told:
    """A measurement that tells what it was told to."""

    alignments: Alignments
    memory: dict[str, Any] = field(default_factory=dict[str, Any])

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        raise AssertionError

    def measure(self, update: int) -> Alignments:
        self.memory["last"] = update
        return self.alignments

    def close(self) -> None:
        raise AssertionError

    def state_dict(self) -> dict[str, Any]:
        return dict(self.memory)

    def load_state_dict(self, state: Any) -> None:
        self.memory = dict(state)


def num_tokens(sequences: PackedSequences) -> float:
    """In place of a loss: which sequences it is of."""
    return float(sequences.num_targets.sum())


@pytest.fixture
def draws(tmp_path: Path) -> list[ProbeSequenceSampler]:
    """Of two specific sets, the second padded."""
    domains, specific = open_sets(write_sets(tmp_path, num_domains=2))
    probe = sized(DIRECTIONAL, 2, 9)
    sets = (specific, open_unequal(tmp_path))
    return [ProbeSequenceSampler(domains, each, probe=probe, seed=5) for each in sets]


def aligner(draws: list[ProbeSequenceSampler], *found: Alignments) -> TargetMeasurement:
    targets = [Target(Told(each), drawn) for each, drawn in zip(found, draws, strict=True)]
    return TargetMeasurement(targets, num_tokens)


FIRST = Alignments(np.array([1.0, 2.0]), 4.0, np.array([5.0, 6.0]), np.array([0.1, 0.2]))
SECOND = Alignments(np.array([3.0, -1.0]), 9.0, None, np.array([0.3, 0.4]), direction_energy=0.5)


def test_targets_keep_their_order(draws):
    found = aligner(draws, FIRST, SECOND).measure(3)

    np.testing.assert_array_equal(found.dots, [[1, 2], [3, -1]])
    np.testing.assert_array_equal(found.target_squared_norms, [4, 9])
    np.testing.assert_array_equal(found.squared_norms, [5, 6])
    np.testing.assert_array_equal(found.standard_errors, [[0.1, 0.2], [0.3, 0.4]])
    np.testing.assert_array_equal(found.direction_energies, [1.0, 0.5])


def test_the_loss_of_a_target_is_of_the_sequences_that_its_gradient_is_of(draws):
    losses = aligner(draws, FIRST, SECOND).measure(3).losses
    specific = [each.specific(3).num_targets().sum() for each in draws]

    np.testing.assert_array_equal(losses, specific)
    assert losses[0] == 9 * 8 > losses[1]  # the second set is padded


def test_all_targets_see_the_same_sequences_of_the_domains(draws):
    for index in range(2):
        one, other = (each.measured(3, index).read(np.arange(2)) for each in draws)
        np.testing.assert_array_equal(one, other)


def test_without_the_errors_of_one_target_there_are_none(draws):
    found = aligner(draws, FIRST, Alignments(np.array([3.0, -1.0]), 9.0)).measure(0)
    assert found.standard_errors is None


def test_what_every_target_remembers_reaches_it_again(draws):
    before, resumed = (aligner(draws, FIRST, SECOND) for _ in range(2))
    before.measure(7)
    resumed.load_state_dict(before.state_dict())

    assert resumed.state_dict() == {"targets": [{"last": 7}, {"last": 7}]}
