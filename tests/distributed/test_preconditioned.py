"""Alignments with what AdamW makes of the specific gradient, against its own states."""

from typing import Any

import pytest

from tests.distributed.conftest import Measured
from tests.support.probe_cases import FAMILIES, preconditioned_cases

# Relative to |g_i||v/D|.
TOLERANCE = {"fp32": 1e-6, "bf16": 5e-2}


@pytest.fixture(params=[(n, family) for n in (1, 2) for family in FAMILIES], ids=str)
def results(measured: Measured, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    world_size, family = request.param
    found = measured(world_size, family)["preconditioned"]
    cases = preconditioned_cases(world_size, family)
    whole = sum(case.precision == "fp32" for case in cases)
    assert len(found) == 3 * len(cases) + 2 * whole
    return found


def test_preconditioned_alignments_equal_float64_with_the_optimizers_own_moments(
    results: list[dict[str, Any]],
) -> None:
    for result in results:
        assert result["preconditioned"], result
        assert result["error"] < TOLERANCE[result["precision"]], result


def test_factors_hold_nearly_as_much_of_the_direction_as_any_of_their_rank(
    results: list[dict[str, Any]],
) -> None:
    for result in results:
        if "energy" in result:
            assert result["energy"] == pytest.approx(result["true_energy"], abs=1e-5)
            assert 0.0 < result["true_energy"] < 1.0
            assert result["true_energy"] > 0.95 * result["best_energy"]


def test_factors_are_used_again_with_equal_bits_from_a_reloaded_state(
    results: list[dict[str, Any]],
) -> None:
    for result in results:
        if "energy" in result:
            assert result["age"] == 1
            assert result["kept"]


def test_before_the_first_step_every_probe_refuses_and_says_what_else_there_is(
    results: list[dict[str, Any]],
) -> None:
    for result in results:
        refusals = result["before_a_step"]["refusals"]
        assert list(refusals) == ["sharded", "directional", "in_flight"]
        for message in refusals.values():
            assert message.startswith("score adam: expected an optimizer that has taken a step")
            assert "without_moments: raw" in message


def test_before_the_first_step_raw_measures_along_the_specific_gradient_itself(
    results: list[dict[str, Any]],
) -> None:
    for result in results:
        first = result["before_a_step"]
        assert first["raw"] == first["plain"]
        assert first["preconditioned"] is False
