"""Alignments and resumes under DeepSpeed's features for large models, on four ranks."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepspeed.ops.op_builder.cpu import AsyncIOBuilder

from tests.support.ranks import run_ranks
from tests.support.scale_cases import QUICK, thorough_cases

# Relative to |g_i||v|: float32's own error, and the others' over a forward and backward pass.
TOLERANCE = {"fp32": 1e-6, "fp16": 5e-3, "bf16": 5e-2}
THOROUGH = thorough_cases(Path())
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.thorough) for name in THOROUGH)]


@pytest.fixture(scope="module")
def quick(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``workers.scale`` found, by feature."""
    output = tmp_path_factory.mktemp("scale")
    worker = "tests.distributed.workers.scale"
    return run_ranks(worker, 4, output, str(folder), str(output), *QUICK, "overflowing", "refused")


@pytest.fixture(scope="module")
def thorough(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of those that take long."""
    output = tmp_path_factory.mktemp("scale-thorough")
    worker = "tests.distributed.workers.scale"
    names = [name for name in THOROUGH if "disk" not in name or AsyncIOBuilder().is_compatible()]
    return run_ranks(worker, 4, output, str(folder), str(output), *names, timeout_s=900)


@pytest.fixture
def found(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """Of one feature."""
    results = request.getfixturevalue("quick" if name in QUICK else "thorough")
    if name not in results:
        pytest.skip("DeepSpeed's operator for files needs libaio: apt-get install libaio-dev")
    return results[name]


@pytest.mark.parametrize("name", NAMES)
def test_alignments_equal_float64_gradients(found: dict[str, Any], name: str) -> None:
    case = {**QUICK, **THOROUGH}[name].case

    assert set(found["errors"]) == {"sharded", "directional", "in_flight"}
    assert {*found["errors"]} <= {*found["errors along v / D"]}
    for errors in (found["errors"], found["errors along v / D"]):
        assert max(errors.values()) < TOLERANCE[case.precision], errors


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
    halved = [next_ == scale / 2 for scale, next_ in itertools.pairwise(scales)]
    assert halved == overflowed[:-1]
    # What overflows in training does in a probe: neither parameters nor weights move.
    assert updated[-1]
    assert not updated[0]


def test_ranks_that_divide_sequences_or_matrices_are_refused_by_name(
    quick: dict[str, Any],
) -> None:
    messages = quick["refused"]

    assert messages["sequences"].startswith("sequence parallelism: expected whole sequences")
    assert messages["matrices"].startswith("tensor parallelism: expected every parameter whole")
