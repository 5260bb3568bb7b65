"""A batch that is left out, and a checkpoint that a running engine goes back to: the same bits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megadga.errors import UnsupportedEngineError
from megadga.probes.discarding import check_discarding
from tests.distributed.workers.discarding import CASES as PAIRS
from tests.support.ranks import run_ranks

CASES = [" ".join(pair) for pair in PAIRS]


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


class Lamb(torch.optim.Adam):
    """Called as DeepSpeed's, which ``step`` alone does not move."""


class FP8Optimizer:
    """A wrapper that is not known."""


@pytest.mark.parametrize(
    ("inner", "outer", "more", "named"),
    [
        (Lamb, None, {}, "found Lamb"),
        (torch.optim.Adam, FP8Optimizer, {}, "found FP8Optimizer"),
        (torch.optim.Adam, None, {"fp16_enabled": lambda: True}, "found fp16"),
        (torch.optim.Adam, None, {"zenflow": True}, "no zenflow"),
        (torch.optim.Adam, None, {"torch_autocast_z0_gradscaler": object()}, "no loss scaling"),
    ],
)
def test_engines_that_could_move_all_the_same_are_refused(inner, outer, more, named):
    optimizer = inner([torch.nn.Parameter(torch.zeros(1))])
    values: dict[str, Any] = {"zenflow": False, "torch_autocast_z0_gradscaler": None}
    values |= {"fp16_enabled": lambda: False, **more}
    wrapper = optimizer if outer is None else outer()
    engine = SimpleNamespace(basic_optimizer=optimizer, optimizer=wrapper, **values)
    with pytest.raises(UnsupportedEngineError, match=named):
        check_discarding(engine)
