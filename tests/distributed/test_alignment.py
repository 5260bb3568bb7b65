"""Every probe under real DeepSpeed: exact, and equal on all ranks."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.conftest import Measured
from tests.support.probe_cases import (
    FAMILIES,
    PACKINGS,
    PRECISIONS,
    WORLD_SIZES,
    ProbeCase,
    architecture_cases,
    exactness_cases,
    more_architecture_cases,
)
from tests.support.ranks import run_ranks

# Relative to |g_i||v|: float32's own error, and bfloat16's over a forward and backward pass.
TOLERANCE = {"fp32": 1e-6, "bf16": 5e-2}
KINDS = [kind for kinds in FAMILIES.values() for kind in kinds]
PROBES = ["sharded", "directional", "in_flight"]


def tolerance(result: dict[str, str]) -> float:
    return TOLERANCE["bf16" if result["model"] == "llama-autocast" else result["precision"]]


def planned() -> list[tuple[int, ProbeCase]]:
    return [
        (world_size, case)
        for world_size, family in product(WORLD_SIZES, FAMILIES)
        for case in exactness_cases(world_size, family)
    ]


def test_the_cases_hold_every_pair_that_they_promise() -> None:
    cases = planned()
    models = {case.model for _, case in cases}
    stages = {case.stage for _, case in cases}

    assert len(models) == 10
    assert {(n, c.kind, c.precision) for n, c in cases} == set(
        product(WORLD_SIZES, KINDS, PRECISIONS)
    )
    assert {(c.stage, c.model) for _, c in cases} == set(product(stages, models))
    assert {(c.kind, c.packing) for _, c in cases} == set(product(KINDS, PACKINGS))
    assert {(n, c.packing) for n, c in cases} == set(product(WORLD_SIZES, PACKINGS))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_alignments_equal_float64_gradients(
    measured: Measured, world_size: int, family: str
) -> None:
    results = measured(world_size, family)["exactness"]

    cases = (*exactness_cases(world_size, family), *architecture_cases(world_size, family))
    assert [r["model"] for r in results[:: len(PROBES)]] == [case.model for case in cases]
    assert [r["probe"] for r in results] == PROBES * len(cases)
    for result in results:
        assert result["errors"]["alignments"] < tolerance(result), result


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_alignments_of_more_architectures_equal_float64_gradients(
    folder: Path, tmp_path: Path, family: str
) -> None:
    worker = "tests.distributed.workers.architectures"

    results = run_ranks(worker, 2, tmp_path, str(folder), family, timeout_s=550)

    cases = more_architecture_cases(family)
    assert [r["model"] for r in results[:: len(PROBES)]] == [case.model for case in cases]
    assert [r["probe"] for r in results] == PROBES * len(cases)
    for result in results:
        assert max(result["errors"].values()) < TOLERANCE["fp32"], result


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_standard_errors_equal_those_of_float64_gradients_of_single_sequences(
    measured: Measured, world_size: int, family: str
) -> None:
    results = measured(world_size, family)["exactness"]

    directional = [result for result in results if result["probe"] == "directional"]
    assert directional
    for result in directional:
        assert result["errors"]["standard errors"] < tolerance(result), result


def test_derivatives_have_the_same_bits_whether_pieces_of_the_direction_travel_or_not(
    measured: Measured,
) -> None:
    results = measured(2, "zero3")["gathered"]

    models = [result["model"] for result in results]
    assert models == ["llama", "llama-checkpointed", "llama-functions"]
    for result in results:
        assert result["any"]
        assert result["equal"]


def test_from_the_second_pass_on_a_piece_travels_while_the_one_before_is_used(
    measured: Measured,
) -> None:
    for result in measured(2, "zero3")["gathered"]:
        first = result["under_way"].index(2) - 1  # of the second pass
        assert first >= result["num_pieces"]
        assert set(result["under_way"][:first]) == {1}
        assert set(result["under_way"]) == {1, 2}
        num_alone = result["under_way"][first:].count(1)
        assert num_alone <= len(result["under_way"]) // first  # at most the first of each pass


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_all_that_is_measured_is_equal_bits_on_every_rank(
    measured: Measured, world_size: int, family: str
) -> None:
    assert measured(world_size, family)["equal_bits"] == [True] * world_size


@pytest.fixture(scope="module")
def refusals(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What was said to engines and models that are not supported."""
    output = tmp_path_factory.mktemp("refusals")
    return run_ranks("tests.distributed.workers.refusals", 1, output, str(folder))


def test_untested_engine_settings_are_refused_by_name(
    refusals: dict[str, dict[str, str]],
) -> None:
    messages = refusals["settings"].copy()

    assert messages.pop("nothing") == ""
    assert len(messages) == 5
    assert "'model.layers.0.mlp' (MixtralSparseMoeBlock)" in messages["leaf module"]
    for setting, message in messages.items():
        assert setting in message
        assert "expected" in message


def test_layers_and_stages_that_ranks_divide_are_refused_by_name(
    refusals: dict[str, dict[str, str]],
) -> None:
    messages = refusals["parallelism"]

    assert messages["experts"].startswith("UnsupportedEngineError: expert parallelism: expected")
    assert messages["stages"].startswith("UnsupportedEngineError: pipeline parallelism: expected")


def test_what_a_probe_cannot_see_is_refused_and_sharded_is_named(
    refusals: dict[str, dict[str, str]],
) -> None:
    # A matrix that is used where no hook sees it shows when derivatives are checked.
    hidden = refusals["hidden"]
    assert hidden["sharded"] == ""
    for name in ("directional", "directional-low-rank", "in_flight", "in_flight-low-rank"):
        assert hidden[name].startswith("UnsupportedEngineError: probe: expected a derivative of")
        assert "'embedding.weight'" in hidden[name]
        assert "no hook" in hidden[name]
        assert hidden[name].endswith("measure with probe type sharded")


@pytest.mark.parametrize("model", ["packed-row", "mixtral", "routed", "out-of-sight"])
def test_sequences_are_measured_wherever_they_lie(
    refusals: dict[str, dict[str, Any]], model: str
) -> None:
    found = refusals["unusual"][model]

    assert found["alignments"] < TOLERANCE["fp32"]
    assert found["standard errors"] < TOLERANCE["fp32"]
    if model == "out-of-sight":  # its micro-batches are taken apart, which training's are not
        assert found["in_flight"].startswith("in-flight probe: expected every module to return")
        assert "'position' (an output of shape" in found["in_flight"]
    else:
        assert found["in_flight"] < TOLERANCE["fp32"]


def test_ways_that_cannot_measure_what_a_score_needs_are_refused(
    refusals: dict[str, dict[str, str]],
) -> None:
    contradictions = refusals["contradictions"]

    message = contradictions["norms in flight"]
    assert message.startswith("ValueError: probe: expected one that sees whole gradients")
    assert "found in flight" in message
    assert contradictions["SGD"] == (
        "UnsupportedEngineError: score adam: expected an optimizer with second moments "
        "(Adam, AdamW), found SGD"
    )
