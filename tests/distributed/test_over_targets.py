"""Several specific sets under DeepSpeed, on two ranks."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks

TOLERANCE = 1e-6  # relative to |g_k||v_m|: float32's own error


@pytest.fixture(
    scope="module", params=["2", "3", "3-released"], ids=["zero2", "zero3", "zero3-released"]
)
def found(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    worker = "tests.distributed.workers.over_targets"
    return run_ranks(
        worker, 2, tmp_path_factory.mktemp("over_targets"), str(folder), request.param
    )


def test_alignments_and_losses_of_each_set_equal_float64(found: dict[str, Any]) -> None:
    assert found["exactness"].keys() == {"directional", "directional with norms", "sharded"}
    for name, measured in found["exactness"].items():
        assert measured["error"] < TOLERANCE, name
        assert measured["norms"] is (name != "directional")


def test_a_set_among_several_has_the_alignments_that_it_has_alone(found: dict[str, Any]) -> None:
    for name, measured in found["exactness"].items():
        assert measured["alone"], name


def test_measuring_several_sets_leaves_no_trace(found: dict[str, Any]) -> None:
    assert (found["without"]["updates"], found["with"]["updates"]) == (0, 2)
    assert found["with"]["bits"] == found["without"]["bits"]


@pytest.mark.parametrize("rule", ["grape", "worst"])
def test_the_rule_moves_the_domains_and_tells_of_each_set(
    found: dict[str, Any], rule: str
) -> None:
    updates = found[rule]["updates"]

    assert len(updates) == 3
    assert updates[0]["weights"] != updates[1]["weights"]
    for update in updates:
        for key in ("target_alignments", "target_standard_errors", "target_losses"):
            assert list(update[key]) == ["specific", "examples"]
        assert list(update["target_alignments"]["examples"]) == ["d0", "d1", "d2"]
        assert sum(update["target_weights"].values()) == pytest.approx(1.0, abs=1e-12)
        # 3 of each of 3 domains once a set; of 5 specific ones of each two passes for two
        # updates' thin factors, and the loss; beside 2 batches of 8.
        assert update["predicted_overhead"] == pytest.approx((9 * 2 + 5 * 2 + 5 * 2) / (2 * 8))


@pytest.mark.parametrize("rule", ["grape", "worst"])
def test_a_resumed_rule_continues_with_equal_bits_on_every_rank(
    found: dict[str, Any], rule: str
) -> None:
    one, other = found[rule]["pair"]
    assert one == other
    first, second = found[rule]["by_rank"]
    assert first == second


def test_what_does_not_fit_is_refused(found: dict[str, Any]) -> None:
    refusals = found["refusals"]

    assert "for a rule for several specific sets, found in flight" in refusals["in flight"]
    expected = "ValueError: specific: expected 2 specific sets to align with, found "
    assert refusals["one set"] == f"{expected}specific"
    assert refusals["no set"] == f"{expected}None"
    assert refusals["several for one"] == (
        "ValueError: specific: expected a specific set to align with, found specific, examples"
    )
    assert refusals["one name"] == (
        "ValueError: specific: expected different names, found specific, specific"
    )
    assert refusals["other sets"].startswith("ResumeError: checkpoint: targets: expected ['exam")
