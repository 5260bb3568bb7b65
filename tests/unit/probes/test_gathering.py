"""A direction that is gathered: when its pieces travel, and that they are the right ones."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from megadga.probes.gathering import GatheredDirection, PieceOrder


@dataclass(frozen=True)
class Arriving:
    """A gather whose end is written down once."""

    number: int
    whole: Tensor
    events: list[str]

    def rows(self) -> Tensor:
        if f"wait {self.number}" not in self.events:
            self.events.append(f"wait {self.number}")
        return self.whole


@dataclass
class TwoRanks:
    """The first of two ranks, whose other one holds the same numbers with the sign turned."""

    events: list[str] = field(default_factory=list[str])

    def all_gather(self, own: Tensor) -> Tensor:
        return torch.stack((own, -own))

    def start_all_gather(self, own: Tensor) -> Arriving:
        number = int(own[0])
        self.events.append(f"start {number}")
        return Arriving(number, self.all_gather(own), self.events)


MATRICES = [nn.Parameter(torch.zeros(2, 3)) for _ in range(5)]


def direction_of(
    ranks: TwoRanks, order: PieceOrder, *, small: int = 0, ahead: int = 0
) -> GatheredDirection:
    """A direction whose matrix number ``n`` is ``n`` in the first half, and ``-n`` in the other.

    The number of the first matrix is 1.
    """
    own = {
        matrix: torch.full((matrix.numel() // 2,), 1.0 + number)
        for number, matrix in enumerate(MATRICES)
    }
    return GatheredDirection(own, ranks, order, scale=1.0, small=small, ahead=ahead)


def run_pass(direction: GatheredDirection, ranks: TwoRanks, numbers: Iterable[int]) -> list[str]:
    """Ask for pieces in an order; return what happened meanwhile."""
    del ranks.events[:]
    direction.begin_pass()
    for number in numbers:
        ranks.events.append(f"need {number}")
        n = float(number)
        assert direction.dense(MATRICES[number - 1]).tolist() == [[n, n, n], [-n, -n, -n]]
    return list(ranks.events)


def test_the_first_pass_gathers_each_piece_when_it_is_needed():
    ranks = TwoRanks()

    events = run_pass(direction_of(ranks, PieceOrder()), ranks, [3, 1])

    assert events == ["need 3", "start 3", "wait 3", "need 1", "start 1", "wait 1"]


def test_the_next_passes_start_each_gather_before_the_piece_ahead_of_it_is_used():
    ranks = TwoRanks()
    direction = direction_of(ranks, PieceOrder())
    run_pass(direction, ranks, [3, 1, 2])

    events = run_pass(direction, ranks, [3, 1, 2])

    assert events == [
        *("start 3", "need 3", "start 1", "wait 3"),
        *("need 1", "start 2", "wait 1", "need 2", "wait 2"),
    ]
    assert run_pass(direction, ranks, [3, 1, 2]) == events


def test_the_next_update_knows_the_order_from_its_first_pass():
    ranks, order = TwoRanks(), PieceOrder()
    run_pass(direction_of(ranks, order), ranks, [3, 1])

    events = run_pass(direction_of(ranks, order), ranks, [3, 1])

    assert events[:3] == ["start 3", "need 3", "start 1"]


def test_a_pass_that_asks_for_others_gets_them_and_ends_the_gathers_that_were_started():
    ranks = TwoRanks()
    direction = direction_of(ranks, PieceOrder())
    run_pass(direction, ranks, [3, 1, 2])

    events = run_pass(direction, ranks, [3, 4, 5])

    assert events == [
        *("start 3", "need 3", "start 1", "wait 3"),
        *("need 4", "wait 1", "start 4", "wait 4", "need 5", "start 5", "wait 5"),
    ]
    assert run_pass(direction, ranks, [3, 4, 5])[:4] == ["start 3", "need 3", "start 4", "wait 3"]


def test_a_pass_that_ends_early_leaves_nothing_to_the_next():
    ranks = TwoRanks()
    direction = direction_of(ranks, PieceOrder())
    run_pass(direction, ranks, [3, 1, 2])
    run_pass(direction, ranks, [3])

    events = run_pass(direction, ranks, [3, 1, 2])

    assert events[:3] == ["wait 1", "start 3", "need 3"]


def test_a_piece_that_ends_a_pass_and_begins_the_next_one_is_gathered_once():
    ranks = TwoRanks()
    direction = direction_of(ranks, PieceOrder())
    run_pass(direction, ranks, [1, 2, 1])

    events = run_pass(direction, ranks, [1, 2, 1])

    assert events.count("start 1") == 1


def test_small_pieces_are_at_hand():
    ranks = TwoRanks()
    direction = direction_of(ranks, PieceOrder(), small=6)

    assert run_pass(direction, ranks, [2, 1]) == ["need 2", "need 1"]


def test_no_more_is_ahead_than_its_limit_or_one_piece():
    ranks = TwoRanks()
    direction = direction_of(ranks, PieceOrder(), ahead=17)  # two pieces of six, and not three
    run_pass(direction, ranks, [1, 2, 3, 4, 5])

    events = run_pass(direction, ranks, [1, 2, 3, 4, 5])

    assert events[:6] == ["start 1", "start 2", "need 1", "start 3", "wait 1", "need 2"]
