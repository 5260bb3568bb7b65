"""Estimates that training batches renew, with a probe that answers as tests say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from megadga.arrays import FloatArray
from megadga.mixers.base import Alignments
from megadga.mixers.probing import DIRECTIONAL
from megadga.probes.in_flight import InFlightMeasurement
from megadga.probes.protocols import InFlightStart, MeasuredSequences
from megadga.probes.sequences import (
    DomainSequences,
    ProbeSequences,
    ProbeSequenceSampler,
    TrainedBatch,
)
from tests.support.probes import sized
from tests.support.shards import SEQUENCE_LENGTH, open_sets, write_sets

NAMES = ("d0", "d1", "d2")


@dataclass
class FakeProbe:
    """Says of each sequence of a domain what the test has said of the domain, per target.

    Attributes:
        per_target: Alignment of each domain; those in flight are spread by a quarter about it.
        asked: Names of the domains measured separately, an entry per update.
        watching: Whether a step is being watched.
        num_started: Kept in a checkpoint.
    """

    per_target: list[float]
    asked: list[list[str]] = field(default_factory=list[list[str]])
    watching: bool = False
    num_started: int = 0

    def start(
        self, update: int, specific: ProbeSequences, separate: Sequence[ProbeSequences]
    ) -> InFlightStart:
        assert set_of(specific) == "specific"
        self.asked.append([set_of(drawn) for drawn in separate])
        self.watching = True
        self.num_started += 1
        sets = np.repeat(np.arange(len(separate)), [len(drawn) for drawn in separate])
        domains = np.array([NAMES.index(set_of(drawn)) for drawn in separate], dtype=np.int64)
        targets = np.full(sets.size, SEQUENCE_LENGTH)
        along = np.array(self.per_target)[domains[sets]] * targets
        return InFlightStart(
            MeasuredSequences(along, targets, sets), 4.0, 0.5, preconditioned=True
        )

    def finish(self, batch: TrainedBatch) -> FloatArray:
        assert self.watching
        self.watching = False
        spread = np.where(np.arange(batch.domains.size) % 2 == 0, 0.25, -0.25)
        return (np.array(self.per_target)[batch.domains] + spread) * batch.sequence_length

    def close(self) -> None:
        self.watching = False

    def state_dict(self) -> dict[str, Any]:
        return {"num_started": self.num_started}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.num_started = state["num_started"]


def set_of(drawn: ProbeSequences) -> str:
    assert isinstance(drawn, DomainSequences)
    return drawn.domain.name


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> ProbeSequenceSampler:
    domains, specific = open_sets(write_sets(tmp_path_factory.mktemp("sets"), num_domains=3))
    return ProbeSequenceSampler(domains, specific, probe=sized(DIRECTIONAL, 4, 6), seed=5)


def batch_of(*domains: int) -> TrainedBatch:
    rows = np.arange(len(domains))[None]
    return TrainedBatch(np.array(domains), rows, SEQUENCE_LENGTH)


def updated(aligner: InFlightMeasurement, update: int, *domains: int) -> Alignments:
    """Measure an update on a batch of sequences of these domains."""
    aligner.prepare(update, batch_of(*domains))
    return aligner.measure(update)


def errors(alignments: Alignments) -> list[float]:
    assert alignments.standard_errors is not None
    return alignments.standard_errors.tolist()


def test_the_first_update_measures_separately_what_the_batch_lacks(draws: ProbeSequenceSampler):
    probe = FakeProbe([1.0, 2.0, 4.0])

    found = updated(InFlightMeasurement(probe, draws, refresh_every=10), 0, 1, 1, 1, 1)

    assert probe.asked == [["d0", "d2"]]
    assert found.dots.tolist() == [1.0, 2.0, 4.0]
    # Four sequences a quarter off: variance 1/16 * 4/3 of one, and of the mean a fourth of it.
    np.testing.assert_allclose(errors(found), [0.0, math.sqrt(1 / 48), 0.0])


def test_without_refreshes_only_the_batch_is_measured(draws: ProbeSequenceSampler):
    probe = FakeProbe([1.0, 2.0, 4.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=None)

    found = [updated(aligner, 0, 1, 1, 1, 1), updated(aligner, 1, 1, 1, 2, 2)]

    assert probe.asked == [[], []]
    assert [each.dots.tolist() for each in found] == [[0.0, 2.0, 0.0], [0.0, 2.0, 4.0]]
    assert found[0].standard_errors is None  # nothing is known of two domains


def test_each_update_counts_the_sequences_that_it_measured(draws: ProbeSequenceSampler):
    aligner = InFlightMeasurement(FakeProbe([1.0, 2.0, 4.0]), draws, refresh_every=10)

    first, second = updated(aligner, 0, 1, 1, 1, 1), updated(aligner, 1, 0, 1, 1, 1)

    assert first.counts is not None
    assert second.counts is not None
    assert first.counts.tolist() == [4, 4, 4]  # four were drawn of what the batch lacks
    assert second.counts.tolist() == [1, 3, 0]


def test_what_else_is_known_of_the_direction_is_passed_on(draws: ProbeSequenceSampler):
    found = updated(InFlightMeasurement(FakeProbe([1.0] * 3), draws, refresh_every=10), 0, 0)

    assert found.specific_squared_norm == 4.0
    assert found.direction_energy == 0.5
    assert found.preconditioned
    assert found.squared_norms is None


def test_a_batch_with_every_domain_leaves_nothing_to_measure_separately(
    draws: ProbeSequenceSampler,
):
    probe = FakeProbe([1.0, 2.0, 4.0])

    found = updated(InFlightMeasurement(probe, draws, refresh_every=10), 0, 0, 0, 1, 1, 2, 2)

    assert probe.asked == [[]]
    assert found.dots.tolist() == [1.0, 2.0, 4.0]


def test_domains_that_a_batch_lacks_keep_their_estimates_and_grow_uncertain(
    draws: ProbeSequenceSampler,
):
    probe = FakeProbe([1.0, 2.0, 4.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=10)
    first = updated(aligner, 0, 0, 0, 1, 1, 2, 2)
    probe.per_target = [10.0, 20.0, 40.0]

    second = updated(aligner, 1, 1, 1)
    third = updated(aligner, 2, 1, 1)

    assert probe.asked == [[], [], []]
    assert second.dots.tolist() == third.dots.tolist() == [1.0, 20.0, 4.0]
    (of_two, *_) = errors(first)
    np.testing.assert_allclose(errors(second), of_two * np.sqrt([2, 1, 2]))
    np.testing.assert_allclose(errors(third), of_two * np.sqrt([3, 1, 3]))


def test_every_so_many_updates_what_the_batch_lacks_is_measured_separately(
    draws: ProbeSequenceSampler,
):
    probe = FakeProbe([1.0, 2.0, 4.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=3)

    found = [updated(aligner, update, 0, 0).dots.tolist() for update in range(3)]
    probe.per_target = [10.0, 20.0, 40.0]
    found.append(updated(aligner, 3, 2, 2).dots.tolist())

    assert probe.asked == [["d1", "d2"], [], [], ["d0", "d1"]]
    assert found == [[1.0, 2.0, 4.0]] * 3 + [[10.0, 20.0, 40.0]]


def test_a_measurement_that_is_not_finite_is_told_but_not_kept(draws: ProbeSequenceSampler):
    probe = FakeProbe([1.0, 2.0, 4.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=10)
    updated(aligner, 0, 0, 0, 1, 1, 2, 2)

    probe.per_target = [math.nan, 20.0, 40.0]
    broken = updated(aligner, 1, 0, 0, 1, 1)
    probe.per_target = [10.0, 20.0, 40.0]
    after = updated(aligner, 2, 2, 2)

    assert not broken.is_finite()
    assert after.dots.tolist() == [1.0, 2.0, 40.0]


def test_a_first_update_that_is_not_finite_is_made_up_for_by_the_next(draws: ProbeSequenceSampler):
    probe = FakeProbe([math.nan, 2.0, 4.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=10)
    assert not updated(aligner, 0, 1, 1).is_finite()

    probe.per_target = [1.0, 2.0, 4.0]
    found = updated(aligner, 1, 1, 1)

    assert probe.asked == [["d0", "d2"]] * 2
    assert found.dots.tolist() == [1.0, 2.0, 4.0]


def test_a_checkpoint_continues_as_if_there_had_been_none(draws: ProbeSequenceSampler):
    probe, resumed = FakeProbe([1.0, 2.0, 4.0]), FakeProbe([9.0, 9.0, 9.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=10)
    updated(aligner, 0, 0, 0, 1, 1, 2, 2)
    updated(aligner, 1, 0, 0)

    other = InFlightMeasurement(resumed, draws, refresh_every=10)
    other.load_state_dict(aligner.state_dict())
    expected, found = updated(aligner, 2, 1), updated(other, 2, 1)

    assert resumed.asked == [[]]
    assert resumed.num_started == probe.num_started == 3
    assert found.dots.tolist() == [1.0, 9.25, 4.0]
    assert errors(found) == errors(expected)


def test_a_checkpoint_does_not_change_when_training_goes_on(draws: ProbeSequenceSampler):
    probe = FakeProbe([1.0, 2.0, 4.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=10)
    updated(aligner, 0, 0, 0)
    state = aligner.state_dict()

    probe.per_target = [10.0, 20.0, 40.0]
    updated(aligner, 1, 0, 0, 1, 2)

    assert state["estimates"]["dots"].tolist() == [1.0, 2.0, 4.0]


def test_closing_stops_watching_a_step_that_is_never_trained(draws: ProbeSequenceSampler):
    probe = FakeProbe([1.0, 2.0, 4.0])
    aligner = InFlightMeasurement(probe, draws, refresh_every=10)
    aligner.prepare(0, batch_of(0, 1))
    assert probe.watching

    aligner.close()

    assert not probe.watching
    assert updated(aligner, 0, 0, 0).dots.tolist() == [1.0, 2.0, 4.0]
