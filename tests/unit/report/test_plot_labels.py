from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.report.plot_labels import spread_labels, titled

POSITIONS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20)


@given(positions=POSITIONS, gap=st.floats(0.01, 0.3))
def test_labels_keep_their_distance_their_order_and_their_bounds(positions, gap):
    placed = spread_labels(positions, gap=gap, lowest=0.0, highest=1.0)
    order = sorted(range(len(positions)), key=positions.__getitem__)
    ordered = [placed[index] for index in order]
    fitting = min(gap, 1.0 / max(1, len(positions) - 1))
    assert all(above - below >= fitting - 1e-9 for below, above in pairwise(ordered))
    assert min(placed) >= -1e-9
    assert max(placed) <= 1.0 + 1e-9


def test_labels_that_do_not_collide_stay():
    assert spread_labels([0.9, 0.1, 0.5], gap=0.1, lowest=0.0, highest=1.0) == [0.9, 0.1, 0.5]


def test_labels_at_the_bottom_are_stacked_upwards():
    assert spread_labels([0.0, 0.0, 0.01], gap=0.1, lowest=0.0, highest=1.0) == pytest.approx(
        [0.0, 0.1, 0.2]
    )


def test_labels_at_the_top_are_stacked_downwards():
    assert spread_labels([1.0, 0.99], gap=0.1, lowest=0.0, highest=1.0) == pytest.approx(
        [1.0, 0.9]
    )


def test_no_labels_give_no_positions():
    assert spread_labels([], gap=0.1, lowest=0.0, highest=1.0) == []


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        (26, "c17 (cell, protein, dose)"),
        (25, "c17 (cell, protein, dose)"),
        (24, "c17 (cell, protein…)"),
        (14, "c17 (cell…)"),
        (10, "c17"),
        (2, "c17"),
    ],
)
def test_a_name_has_as_many_words_of_its_label_as_there_is_room_for(characters, expected):
    assert titled("c17", "cell, protein, dose", characters=characters) == expected


def test_a_domain_without_a_label_is_its_name_and_no_mathematics():
    assert titled("a$b$", "", characters=20) == r"a\$b\$"
