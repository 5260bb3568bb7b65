"""The optimizer's states in checkpoint files of every ZeRO stage, on two ranks."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from megadga.errors import ResumeError
from megadga.train.states import TrainingStates, as_number, as_tensor, open_states
from tests.support.zero_files import (
    VALUES,
    in_halves,
    in_sub_groups,
    model_states,
    write_ranks,
    write_whole,
)

MEANS = {name: value * -3.0 for name, value in VALUES.items()}
SQUARES = {name: value**2 for name, value in VALUES.items()}
STATES = {"exp_avg": MEANS, "exp_avg_sq": SQUARES}
STEP = torch.tensor(10.0)
GROUPS = [{"lr": 0.1, "params": [0]}]
COUNTED = [{"lr": 0.1, "params": [0], "step": 10}]


def write_halves(folder, *, entries=None, groups=GROUPS, client=None):
    """Write a checkpoint of ZeRO-1; `entries` are the states of each rank's vector."""
    halves = [{key: in_halves(each)[rank] for key, each in STATES.items()} for rank in range(2)]
    entries = [{**each, "step": STEP} for each in halves] if entries is None else entries
    return write_ranks(
        folder,
        [model_states(**(client or {}))] * 2,
        [
            {
                "single_partition_of_fp32_groups": [flat],
                "base_optimizer_state": {"state": {0: entry}, "param_groups": groups},
            }
            for flat, entry in zip(in_halves(VALUES), entries, strict=True)
        ],
    )


def write_sub_groups(folder):
    """Write a checkpoint of ZeRO-3; the sub-groups of a rank are out of order in its file."""
    of_states = {key: in_sub_groups(each) for key, each in STATES.items()}
    flats = in_sub_groups(VALUES)
    return write_ranks(
        folder,
        [model_states()] * 2,
        [
            {
                "fp32_flat_groups": flats[rank],
                "optimizer_state_dict": {
                    "state": {
                        number: {
                            "step": STEP,
                            **{key: each[rank][number] for key, each in of_states.items()},
                        }
                        for number in reversed(range(len(flats[rank])))
                    },
                    "param_groups": GROUPS,
                },
            }
            for rank in range(2)
        ],
    )


def whole(optimizer, **more):
    module = {**VALUES, "scale": torch.tensor([3.0])}
    return {**model_states(), "module": module, "buffer_names": ["scale"], **more} | {
        "optimizer": optimizer
    }


def write_parameters(folder):
    """Write a checkpoint of ZeRO-0 with torch's own optimizer."""
    state = {
        index: {"step": STEP, **{key: each[name] for key, each in STATES.items()}}
        for index, name in enumerate(VALUES)
    }
    return write_whole(folder, whole({"state": state, "param_groups": GROUPS}))


def write_fused(folder):
    """Write a checkpoint of ZeRO-0 with a fused optimizer, which counts steps in its groups."""
    vectors = {
        key: torch.cat([value.flatten() for value in each.values()])
        for key, each in STATES.items()
    }
    flat = torch.cat([value.flatten() for value in VALUES.values()])
    base = {"state": {0: vectors}, "param_groups": COUNTED}
    optimizer = {"optimizer_state_dict": base, "fp32_groups_flat": [flat]}
    return write_whole(folder, whole(optimizer))


def assert_states_are(found: TrainingStates, expected: Mapping[str, Mapping[str, Tensor]]) -> None:
    assert found.states.keys() == expected.keys()
    for key, values in expected.items():
        assert found.states[key].keys() == values.keys()
        for name, value in values.items():
            assert torch.equal(found.states[key][name].read(), value), (key, name)


@pytest.mark.parametrize(
    ("write", "stage"),
    [
        (write_parameters, 0),
        (write_fused, 0),
        (write_halves, 1),
        (write_halves, 2),
        (write_sub_groups, 3),
    ],
)
def test_states_are_by_parameter_whatever_the_stage(tmp_path, write, stage):
    found = open_states(write(tmp_path / "saved"), stage)

    assert_states_are(found, STATES)
    assert {key: as_number(value) for key, value in found.scalars.items()} == {"step": 10.0}
    assert torch.equal(found.weights["first"].read(), VALUES["first"])
    assert (found.global_steps, found.global_samples, found.skipped_steps) == (12, 96, 2)


def test_what_was_saved_beside_the_engines_own_is_rank_0s(tmp_path):
    client = {"megadga": {"cursors": [1, 2, 3]}}
    found = open_states(write_halves(tmp_path / "saved", client=client), 1)
    assert found.client_state["megadga"] == client["megadga"]


def test_a_parameter_that_no_loss_has_depended_on_has_no_states(tmp_path):
    state = {1: {"momentum_buffer": MEANS["second"], "step": STEP}}
    optimizer = {"state": state, "param_groups": GROUPS}

    found = open_states(write_whole(tmp_path / "saved", whole(optimizer)), 0)

    assert_states_are(found, {"momentum_buffer": {"second": MEANS["second"]}})


@pytest.mark.parametrize("counted", [False, True])
def test_an_optimizer_that_has_not_stepped_has_no_states(tmp_path, counted):
    groups = COUNTED if counted else GROUPS
    folder = write_halves(tmp_path / "saved", entries=[{}, {}], groups=groups)
    found = open_states(folder, 1)
    assert found.states == {}
    assert found.scalars == ({"step": 10} if counted else {})


def test_a_state_that_is_none_is_left_out(tmp_path):
    """As the momentum of torch's SGD before its first step."""
    entries = [{"momentum_buffer": None, "exp_avg": half} for half in in_halves(MEANS)]
    found = open_states(write_halves(tmp_path / "saved", entries=entries), 1)
    assert_states_are(found, {"exp_avg": MEANS})
    assert found.scalars == {}


def test_plain_numbers_and_tensors_of_one_value_are_of_all_parameters(tmp_path):
    halves = in_halves(MEANS)
    more = {"beta": 0.5, "count": 3, "scale": torch.tensor([2.0])}
    folder = write_halves(tmp_path / "saved", entries=[{"m": half, **more} for half in halves])

    found = open_states(folder, 1)

    assert_states_are(found, {"m": MEANS})
    assert {key: as_number(value) for key, value in found.scalars.items()} == {
        "beta": 0.5, "count": 3.0, "scale": 2.0
    }  # fmt: skip


def test_a_counter_is_no_state_of_a_model_of_one_weight(tmp_path):
    one = torch.tensor([5.0])
    folder = write_ranks(
        tmp_path / "saved",
        [model_states(param_shapes=[{"one": one.shape}], shared_params={})],
        [
            {
                "single_partition_of_fp32_groups": [one],
                "base_optimizer_state": {
                    "state": {0: {"step": STEP, "exp_avg": 2.0 * one}},
                    "param_groups": GROUPS,
                },
            }
        ],
    )

    found = open_states(folder, 1)

    assert_states_are(found, {"exp_avg": {"one": 2.0 * one}})
    assert found.scalars == {"step": STEP}


def elastic(folder):
    folder = write_halves(folder)
    for path in folder.glob("*_optim_states.pt"):
        states = torch.load(path)
        states["optimizer_state_dict"]["base_optimizer_state"] = [{}]
        torch.save(states, path)
    return folder


def factored(folder):
    """States as Adafactor's, of rows and of columns."""
    halves = in_halves(MEANS)
    return write_halves(
        folder, entries=[{"exp_avg": half, "row": torch.zeros(3)} for half in halves]
    )


def text(folder):
    return write_halves(folder, entries=[{"m": half, "kind": "a"} for half in in_halves(MEANS)])


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (elastic, "TypeError: states of zero_optimization.elastic_checkpoint"),
        (factored, "ValueError: a state row of the optimizer, (3,), beside 7 weights"),
        (text, "ValueError: a state kind of the optimizer, str, beside 7 weights"),
    ],
)
def test_states_that_are_no_value_for_each_weight_are_refused(tmp_path, write, found):
    folder = write(tmp_path / "saved")

    with pytest.raises(ResumeError) as error:
        open_states(folder, 1)

    expected = "expected a model's weights as DeepSpeed stores them"
    assert str(error.value) == f"{folder}: {expected}, found {found}"


def test_a_number_is_a_tensor_for_torchs_optimizers_and_none_of_the_file(tmp_path):
    of_file = torch.tensor(10.0)
    copied = as_tensor(of_file)
    copied += 1.0
    assert of_file == 10.0
    assert torch.equal(as_tensor(10), torch.tensor(10.0))
    assert (as_number(of_file), as_number(3)) == (10.0, 3.0)
