"""Alignments and resumes under DeepSpeed's features for large models, on four ranks."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.ranks import run_ranks
from tests.support.scale_cases import QUICK, THOROUGH

# Relative to |g_i||v|: float32's own error, and the others' over a forward and backward pass.
TOLERANCE = {"fp32": 1e-6, "fp16": 5e-3, "bf16": 5e-2}
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.thorough) for name in THOROUGH)]
WORKER = "tests.distributed.workers.scale"


@pytest.fixture(scope="module")
def quick(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``workers.scale`` found, by feature."""
    output = tmp_path_factory.mktemp("scale")
    names = (*QUICK, "faint", "overflowing")
    return run_ranks(WORKER, 4, output, str(folder), str(output), "v", *names)


@pytest.fixture(scope="module")
def thorough(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of all features, along all directions, for ``make test-scale``."""
    output = tmp_path_factory.mktemp("scale-thorough")
    names = (*QUICK, *THOROUGH, "refused")
    return run_ranks(WORKER, 4, output, str(folder), str(output), "all", *names, timeout_s=900)


@pytest.fixture
def found(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """Of one feature."""
    return request.getfixturevalue("quick" if name in QUICK else "thorough")[name]


@pytest.mark.parametrize("name", NAMES)
def test_alignments_equal_float64_gradients(found: dict[str, Any], name: str) -> None:
    assert set(found["errors"]) == {"sharded", "directional", "in_flight"}
    assert max(found["errors"].values()) < tolerance(name), found["errors"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*QUICK, *THOROUGH])
def test_alignments_along_other_directions_equal_float64_gradients(
    thorough: dict[str, Any], name: str
) -> None:
    found = thorough[name]

    assert set(found["errors along v / D"]) >= {"sharded", "directional", "in_flight"}
    assert set(found["errors along factors"]) == {"directional", "in_flight"}
    for along in ("errors", "errors along v / D", "errors along factors"):
        assert max(found[along].values()) < tolerance(name), (along, found[along])
    assert found["equal_bits"] == [True] * 4


def tolerance(name: str) -> float:
    return TOLERANCE[{**QUICK, **THOROUGH}[name].precision]


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_measured_is_equal_bits_on_every_rank(
    found: dict[str, Any],
    name: str,
) -> None:
    assert found["equal_bits"] == [True] * 4


@pytest.mark.parametrize("name", NAMES)
def test_training_resumes_bit_for_bit(
    found: dict[str, Any],
    name: str,
) -> None:
    assert found["trained"][0] != found["trained"][1]
    assert found["resumed"] == found["trained"]


def test_gradients_that_float16_cannot_hold_are_measured_as_exactly(quick: dict[str, Any]) -> None:
    assert set(quick["faint"]) == {"sharded", "directional"}
    assert max(quick["faint"].values()) < TOLERANCE["fp16"]


def test_a_step_that_overflows_in_fp16_is_an_update_that_is_left_out(
    quick: dict[str, Any],
) -> None:
    steps = quick["overflowing"]
    scales = [scale for scale, *_ in steps]
    overflowed = [not changed for _, changed, *_ in steps]
    num_skipped = [skipped for _, _, skipped, _ in steps]
    updated = [update for *_, update in steps]

    assert overflowed[0]
    assert not overflowed[-1]
    assert num_skipped == np.cumsum(overflowed).tolist()
    assert [later == scale / 2 for scale, later in itertools.pairwise(scales)] == overflowed[:-1]
    # What overflows in training does in the probe: neither parameters nor weights move.
    assert not updated[0]
    assert updated[-1]


@pytest.mark.thorough
def test_ranks_that_divide_sequences_or_matrices_are_refused_by_name(
    thorough: dict[str, Any],
) -> None:
    messages = thorough["refused"]

    assert messages["sequences"].startswith("sequence parallelism: expected whole sequences")
    assert messages["matrices"].startswith("tensor parallelism: expected every parameter whole")
