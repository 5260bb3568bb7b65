"""Domains that are compared with the mean over all of them, as DoGE does."""

from typing import Any

import pytest

from tests.distributed.conftest import TwoRanks

TOLERANCE = 1e-6  # of |g_i||v|: float32's own error over a forward and backward pass


@pytest.mark.parametrize(("job", "kind"), [("2", "2"), ("3", "3"), ("3", "3-released")])
def test_alignments_with_the_mean_of_the_domains_equal_float64_gradients(
    two_ranks: TwoRanks, job: str, kind: str
) -> None:
    found: dict[str, Any] = two_ranks(job)["among"][kind]

    assert found["errors"].keys() == {"sharded", "directional"}
    for name, error in found["errors"].items():
        assert error < TOLERANCE, name
    for sharded, directional, scale in zip(
        found["dots"]["sharded"], found["dots"]["directional"], found["scale"], strict=True
    ):
        assert abs(sharded - directional) < TOLERANCE * scale
    assert found["equal_bits"] == [True, True]
