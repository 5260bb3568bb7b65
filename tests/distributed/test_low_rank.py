"""Directions of thin factors: exact along what they hold, honest about what they leave out."""

from typing import Any

import pytest

from tests.distributed.conftest import Measured
from tests.support.probe_cases import FAMILIES, factored_cases, wide_kinds

TOLERANCE = {"fp32": 1e-6, "bf16": 5e-2}
SIGMAS = 4.0  # of an estimate that is drawn: the draws are addressed, so this holds or does not


@pytest.fixture(params=[(1, "zero0-2"), (2, "zero0-2"), (1, "zero3"), (2, "zero3")], ids=str)
def wide(measured: Measured, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What was found on a model all of whose matrices are factored, under each stage."""
    world_size, family = request.param
    found = measured(world_size, family)["wide"]
    assert len(found) == len(wide_kinds(world_size, family)) > 0
    return found


@pytest.mark.parametrize(("world_size", "family"), [(2, family) for family in FAMILIES])
def test_alignments_along_factors_equal_float64_with_the_same_direction(
    measured: Measured, world_size: int, family: str
) -> None:
    results = measured(world_size, family)["factored"]

    assert len(results) == 2 * len(factored_cases(world_size, family))
    for result in results:
        assert result["num_factored"] >= 6
        assert result["error"] < TOLERANCE[result["precision"]], result


def test_as_many_columns_as_the_gradient_has_ranks_leave_nothing_out(
    wide: list[dict[str, Any]],
) -> None:
    for found in wide:
        complete = found["complete"]
        assert complete["columns"] == [8] * complete["matrices"] == [8] * 16
        assert complete["error"] < TOLERANCE["fp32"]
        assert complete["energy"] == pytest.approx(1.0, abs=1e-6)


def test_the_estimate_of_what_is_left_out_is_within_its_error_of_the_truth(
    wide: list[dict[str, Any]],
) -> None:
    for found in wide:
        energy, kept = found["energy"], found["energy"]["kept"]
        margin = SIGMAS * energy["standard_error"] / energy["squared_norm"] + 1e-6
        assert margin < 1.0 - kept["true"]  # that nothing is left out would not pass
        assert kept["estimated_squared_norm"] == pytest.approx(energy["squared_norm"], rel=margin)
        # kept / total moves no further than total does, relative to itself.
        assert kept["estimated"] == pytest.approx(kept["true"], abs=margin)


def test_a_share_of_the_energy_is_held_by_the_fewest_columns(wide: list[dict[str, Any]]) -> None:
    for found in wide:
        energy, fewest = found["energy"], found["energy"]["fewest"]
        margin = SIGMAS * energy["standard_error"] / energy["squared_norm"] + 1e-6
        assert fewest["columns"] < energy["kept"]["columns"]
        assert fewest["estimated"] >= 0.9
        assert fewest["true"] >= 0.9 - margin
        assert fewest["estimated"] - energy["least_column"] < 0.9  # not one column less


def test_a_direction_does_for_as_many_updates_as_asked(wide: list[dict[str, Any]]) -> None:
    for found in wide:
        memory = found["memory"]
        assert memory["ages"] == [0, 1, 2, 0, 1]
        first, second, third, fourth, fifth = memory["bits"]
        assert first == second == third != fourth
        assert fourth == fifth


def test_a_reloaded_state_goes_on_with_equal_bits(wide: list[dict[str, Any]]) -> None:
    for found in wide:
        memory = found["memory"]
        assert memory["resumed"] == memory["bits"][2:]
        assert memory["without_past"] != memory["bits"][3]  # the state does matter
