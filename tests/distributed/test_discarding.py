"""A batch that is left out, and a checkpoint that a running engine goes back to: the same bits."""

import pytest

from tests.support.ranks import run_ranks

KINDS = ("0", "1", "2", "2-offload", "3-released")
CASES = [f"{kind} {precision}" for kind in KINDS for precision in ("fp32", "bf16")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discarding")
    first, second = run_ranks("tests.distributed.workers.discarding", 2, folder)
    return {one["case"]: (one, other) for one, other in zip(first, second, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_gradients_that_are_discarded_leave_no_trace(found, case):
    for rank in found[case]:
        before, after = rank["left_out"]
        assert after == before
        without, went_on = rank["went_on"]
        assert went_on == without
        assert without["optimizer"] != before["optimizer"]  # training does move
        assert before["num_moments"] >= 4
        assert rank["skipped"] == 2  # once more gradients that are not finite


@pytest.mark.parametrize("case", CASES)
def test_an_engine_that_goes_back_to_a_checkpoint_trains_the_same_again(found, case):
    for rank in found[case]:
        saved, loaded = rank["loaded"]
        assert loaded == saved
        first, again = rank["again"]
        assert again == first
