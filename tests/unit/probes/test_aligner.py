"""What is asked of a probe that measures between steps, and what comes of its answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from megadga.mixers.base import Alignments
from megadga.probes.measuring import Aligner
from megadga.probes.methods import ProbeBudget
from megadga.probes.sequences import ProbeSequences, ProbeSequenceSampler, TrainedBatch
from tests.support.shards import open_sets, write_sets


class NotingProbe:
    """Keeps what it is asked to measure, and answers with the number of times it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ProbeSequences, list[ProbeSequences]]] = []
        self.times = 0

    def measure(
        self, update: int, specific: ProbeSequences, domains: Sequence[ProbeSequences]
    ) -> Alignments:
        self.asked.append((update, specific, list(domains)))
        self.times += 1
        return Alignments(np.full(len(domains), float(self.times)), 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"times": self.times}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.times = state["times"]


def tokens(drawn: ProbeSequences) -> list[list[int]]:
    return drawn.read(np.arange(len(drawn))).tolist()


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> ProbeSequenceSampler:
    domains, specific = open_sets(write_sets(tmp_path_factory.mktemp("sets"), num_domains=3))
    return ProbeSequenceSampler(domains, specific, budget=ProbeBudget(4, 6), seed=5)


def test_an_update_is_measured_on_the_sequences_that_are_drawn_for_it(draws: ProbeSequenceSampler):
    probe = NotingProbe()

    alignments = Aligner(probe, draws).measure(2)

    ((update, specific, domains),) = probe.asked
    assert update == 2
    assert tokens(specific) == tokens(draws.specific(2))
    assert [tokens(each) for each in domains] == [tokens(draws.measured(2, i)) for i in range(3)]
    assert alignments.dots.tolist() == [1.0, 1.0, 1.0]


def test_the_step_that_is_trained_does_not_matter(draws: ProbeSequenceSampler):
    probe = NotingProbe()
    aligner = Aligner(probe, draws)

    aligner.prepare(0, TrainedBatch(np.zeros(2, np.int64), np.array([[0, 1]]), 8))
    aligner.close()

    assert probe.asked == []


def test_its_state_is_the_probes(draws: ProbeSequenceSampler):
    aligner = Aligner(NotingProbe(), draws)
    for update in range(3):
        aligner.measure(update)
    state = aligner.state_dict()
    assert state == {"times": 3}

    other = Aligner(NotingProbe(), draws)
    other.load_state_dict(state)
    assert other.measure(3).dots.tolist() == aligner.measure(3).dots.tolist() == [4.0, 4.0, 4.0]
