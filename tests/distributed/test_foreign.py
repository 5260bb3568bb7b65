"""Probes in modules and loops of users, on two ranks."""

from typing import Any

import pytest

from tests.distributed.conftest import TwoRanks

TOLERANCE = 1e-6  # of |g_i||v|: float32's own error over a forward and backward pass


@pytest.fixture(scope="module")
def found(two_ranks: TwoRanks) -> dict[str, Any]:
    return two_ranks("2")["foreign"]


def test_an_expert_that_a_rank_did_not_use_has_a_gradient_of_zeros(found: dict[str, Any]) -> None:
    assert found["experts"].keys() == {"sharded", "directional"}
    for name, error in found["experts"].items():
        assert error < TOLERANCE, name


def test_what_the_optimizer_does_not_hold_is_left_out_and_named(found: dict[str, Any]) -> None:
    for name in ("sharded", "directional"):
        subset = found["subset"][name]
        assert subset["error"] < TOLERANCE, name
        (told,) = subset["told"]
        assert told.startswith("alignments leave out embedding.weight, position.weight, head.")


def test_a_probe_leaves_the_gradients_of_what_is_not_measured(found: dict[str, Any]) -> None:
    assert {name: subset["kept"] for name, subset in found["subset"].items()} == {
        "sharded": True,
        "directional": True,
        "directional-low-rank": True,
    }


def test_what_is_frozen_and_unfrozen_later_is_looked_up_at_each_update(
    found: dict[str, Any],
) -> None:
    assert found["thawed"].keys() == {"sharded", "directional"}
    for name, errors in found["thawed"].items():
        assert len(errors) == 2
        assert max(errors) < TOLERANCE, name


def test_a_probe_moves_no_buffer_and_no_random_state(found: dict[str, Any]) -> None:
    assert len(found["moving"]) == 5
    assert all(found["moving"].values()), found["moving"]


def test_in_flight_does_not_depend_on_how_the_loop_scales_its_loss(found: dict[str, Any]) -> None:
    assert found["scales"].keys() == {"a loss a token", "scalar", "logits"}
    for name, ratios in found["scales"].items():
        assert ratios == pytest.approx([1.0] * 3, rel=1e-5), name


@pytest.mark.parametrize("returns", ["mean", "mask", "sums", "sum"])
def test_targets_that_a_loss_leaves_out_do_not_count(found: dict[str, Any], returns: str) -> None:
    errors = found["masks"][returns]
    assert errors.keys() == {"sharded", "directional", "low rank"}
    for name, error in errors.items():
        assert error < TOLERANCE, name


def test_a_loss_that_is_no_mean_over_its_targets_is_refused_at_construction(
    found: dict[str, Any],
) -> None:
    refusals = found["refusals"]
    for name in ("masked by hand, sharded", "masked by hand, directional", "sequences that mix"):
        assert refusals[name].startswith("loss: expected the mean over the targets"), name
        assert "return (losses, mask) of shape (b, S)" in refusals[name]
    assert "found one that leaves out some" in refusals["masked, in flight"]


def test_whatever_a_module_does_not_stand_is_refused_at_construction(
    found: dict[str, Any],
) -> None:
    told = found["refusals"]["unrepeatable"]
    assert told.startswith("probe: expected a module that can be differentiated along a direction")
    assert "found KeyError: 'saved'" in told
    assert told.endswith("measure with probe type sharded")
    assert found["refusals"]["unrepeatable, sharded"] == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_parameter_that_is_used_out_of_sight_is_named_at_construction(
    found: dict[str, Any], precision: str
) -> None:
    told = found["refusals"][f"unseen, {precision}"]
    assert told.startswith("probe: expected a derivative of")
    assert "along 'block.called.weight', found" in told
    assert told.endswith("measure with probe type sharded")


def test_a_parameter_ahead_of_a_child_is_measured_where_zero3_releases_parameters(
    two_ranks: TwoRanks,
) -> None:
    released = two_ranks("3")["foreign"]["released"]
    assert len(released) == 8
    for name, error in released.items():
        assert error < (TOLERANCE if "flight" not in name and "rank" not in name else 1e-4), name
