"""Which segments are timed when, and what their seconds say."""

import pytest

from tools.trials.interleaving import (
    PLAIN,
    Segment,
    order_of_pair,
    order_of_round,
    overheads,
    paired_overhead,
    specific_sequences,
)


def wall(segment: Segment) -> float:
    return segment.seconds


def test_every_run_is_timed_between_two_plain_ones_and_odd_rounds_go_backwards() -> None:
    assert order_of_round(["a", "b"], 0) == [PLAIN, "a", PLAIN, "b", PLAIN]
    assert order_of_round(["a", "b"], 1) == [PLAIN, "b", PLAIN, "a", PLAIN]


def test_a_machine_that_slows_down_steadily_shows_no_overhead() -> None:
    order = order_of_round(["a", "b"], 0)
    rounds = [[Segment(name, 8.0 + place, 0.0) for place, name in enumerate(order)]]

    found = overheads(rounds, wall)

    assert [found[name].median for name in ("a", "b")] == [0.0, 0.0]


def test_an_overhead_is_the_median_of_its_rounds() -> None:
    rounds = [
        [
            Segment(PLAIN, 4.0, 1.0),
            Segment("a", 4.0 * (1.0 + extra), 2.0),
            Segment(PLAIN, 4.0, 1.0),
        ]
        for extra in (0.5, 0.0, 0.25)
    ]

    found = overheads(rounds, wall)["a"]

    assert list(found.rounds) == [0.5, 0.0, 0.25]
    assert (found.lowest, found.median, found.highest) == (0.0, 0.25, 0.5)
    assert overheads(rounds, lambda each: each.processor_s)["a"].median == 1.0


def test_pairs_of_turns_go_forwards_and_backwards_in_alternation() -> None:
    assert [order_of_pair(number) for number in range(3)] == [
        (False, True),
        (True, False),
        (False, True),
    ]


def test_a_pair_that_other_load_has_made_longer_counts_as_much_as_the_next_one() -> None:
    plain = [4.0] * 8
    logged = [4.0 * (1.0 + extra) for extra in (0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 90.0)]

    found = paired_overhead(logged, plain)

    assert found.mean == 0.5  # of 0.25 three times, 0.5 twice, 0.75 three times
    deviation = (6 * 0.25**2 / 7) ** 0.5
    assert found.standard_error == pytest.approx(deviation / (0.5 * 8**0.5), rel=1e-12)


@pytest.mark.parametrize(("passes", "expected"), [(1, 12), (2, 6)])
def test_what_the_domains_leave_is_divided_among_the_passes(passes: int, expected: int) -> None:
    assert specific_sequences(0.006 * 100 * 128, of_domains=64, passes=passes) == expected


def test_a_whole_number_of_sequences_is_not_lost_to_rounding() -> None:
    assert 0.29 * 100 < 29

    assert specific_sequences(0.29 * 100, of_domains=28, passes=1) == 1


def test_too_small_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 64 of the domains and 2 of the specific set"):
        specific_sequences(65.0, of_domains=64, passes=2)
