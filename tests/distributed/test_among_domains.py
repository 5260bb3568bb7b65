"""Domains that are compared with the mean over all of them, as DoGE does."""

from pathlib import Path

import pytest

from tests.support.ranks import run_ranks

TOLERANCE = 1e-6  # of |g_i||v|: float32's own error over a forward and backward pass


@pytest.mark.parametrize("kind", ["2", "3"])
def test_alignments_with_the_mean_of_the_domains_equal_float64_gradients(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    worker = "tests.distributed.workers.among_domains"
    found = run_ranks(worker, 2, tmp_path, str(folder), kind)

    assert found["errors"].keys() == {"sharded", "directional"}
    for name, error in found["errors"].items():
        assert error < TOLERANCE, name
    for sharded, directional, scale in zip(
        found["dots"]["sharded"], found["dots"]["directional"], found["scale"], strict=True
    ):
        assert abs(sharded - directional) < TOLERANCE * scale
    assert found["equal_bits"] == [True, True]
