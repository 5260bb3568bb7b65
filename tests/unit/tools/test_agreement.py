"""How measurements of the same alignments are compared."""

import numpy as np
import pytest

from megadga.mixers.dga import Dga
from tools.trials.agreement import (
    Update,
    agreement,
    alignments_of,
    correlation,
    markdown_table,
    periods,
    replay,
    total_variation,
)


def update(step: int = 1, **others: list[float]) -> Update:
    return Update(
        step,
        reference=np.array([4.0, 0.0, -2.0]),
        standard_errors=np.array([1.0, 2.0, 0.5]),
        others={name: np.array(found) for name, found in others.items()},
    )


def test_deviations_count_in_standard_errors_and_in_the_largest_alignment() -> None:
    found = agreement([update(low=[3.0, 0.0, -2.0]), update(low=[4.0, 4.0, -2.0])], "low")

    assert found is not None
    assert found.largest_in_errors == 2.0  # 4 off, with a standard error of 2
    assert found.largest_in_scale == 1.0
    assert found.rms_in_errors == pytest.approx(np.sqrt((1.0 + 4.0) / 6))
    assert found.rms_in_scale == pytest.approx(np.sqrt((0.25**2 + 1.0) / 6))


def test_an_update_that_lacks_a_way_is_passed_over() -> None:
    found = agreement([update(), update(low=[4.0, 0.0, -2.0])], "low")

    assert found is not None
    assert (found.rms_in_errors, found.correlation) == (0.0, pytest.approx(1.0))
    assert agreement([update()], "low") is None
    assert alignments_of([update(), update(low=[4.0, 0.0, -2.0])], "low") is None


def test_a_scaled_and_shifted_measurement_correlates_fully() -> None:
    reference = np.array([1.0, 2.0, 4.0])

    assert correlation(3.0 * reference - 7.0, reference) == pytest.approx(1.0)
    assert correlation(-reference, reference) == pytest.approx(-1.0)
    assert np.isnan(correlation(np.ones(3), reference))


@pytest.mark.parametrize(
    ("number", "sizes"), [(0, [0, 0, 0]), (3, [1, 1, 1]), (10, [3, 4, 3]), (11, [4, 3, 4])]
)
def test_thirds_hold_every_update_once(number: int, sizes: list[int]) -> None:
    updates = [update(step) for step in range(number)]

    thirds = periods(updates)

    assert list(thirds) == ["early", "middle", "late"]
    assert [len(third) for third in thirds.values()] == sizes
    assert [each for third in thirds.values() for each in third] == updates


def test_weights_are_those_that_the_rule_makes_of_the_alignments() -> None:
    rule = Dga(np.array([0.5, 0.5]), step_size=1.0, ema=0.5)

    first, second = replay(rule, np.array([[np.log(3.0), 0.0], [0.0, 0.0]]))

    assert first == pytest.approx([0.625, 0.375])  # half way to 3 : 1
    assert second == pytest.approx([0.6875, 0.3125])


def test_total_variation_is_the_mass_that_would_move() -> None:
    weights = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    others = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])

    assert total_variation(weights, others).tolist() == [0.25, 1.0]


def test_columns_of_a_table_line_up() -> None:
    assert markdown_table(("way", "x"), [["rank 1", "0.25"], ["full", "1"]]) == (
        "| way    |    x |\n|:-------|-----:|\n| rank 1 | 0.25 |\n| full   |    1 |\n"
    )
