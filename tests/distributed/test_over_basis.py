"""Distribution reweighting under DeepSpeed, over clusters in shared shards."""

from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.shards import write_domain, write_grouped

TOLERANCE = 1e-6  # relative to |g_j||v|: float32's own error


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sets")
    write_grouped(folder / "clusters", [f"c{index}" for index in range(6)])
    write_domain(folder / "specific", seed=1)
    output = tmp_path_factory.mktemp("over_basis")
    return run_ranks("tests.distributed.workers.over_basis", 2, output, str(folder))


def test_alignments_of_basis_distributions_equal_float64_gradients(found: dict[str, Any]) -> None:
    assert found["errors"].keys() == {"directional", "sharded"}
    for name, error in found["errors"].items():
        assert error < TOLERANCE, name


def test_the_rule_moves_the_basis_and_the_domains_with_it(found: dict[str, Any]) -> None:
    updates = found["run"]["updates"]

    assert len(updates) == 2
    for update in updates:
        assert list(update["alignments"]) == list(update["basis_weights"]) == ["b0", "b1", "b2"]
        assert update["basis_weights"]["b0"] != pytest.approx(1 / 3)
        assert sum(update["averaged_weights"].values()) == pytest.approx(1.0, abs=1e-12)
    assert updates[0]["averaged_weights"] != updates[1]["averaged_weights"]


def test_a_resumed_rule_continues_with_equal_bits_on_every_rank(found: dict[str, Any]) -> None:
    one, other = found["run"]["pairs"]
    assert one == other
    first, second = found["run"]["by_rank"]
    assert first == second


def test_in_flight_is_refused(found: dict[str, Any]) -> None:
    assert "for a rule over mixtures of domains, found in flight" in found["refusal"]
