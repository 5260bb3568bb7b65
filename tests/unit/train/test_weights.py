"""Weights in checkpoint files of every ZeRO stage, as DeepSpeed lays them out on two ranks."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megadga.errors import ResumeError
from megadga.train.weights import StoredTensor, Weights, copy_weights, open_weights
from tests.support.zero_files import (
    PADDING,
    SHAPES,
    VALUES,
    in_halves,
    in_sub_groups,
    model_states,
    write_ranks,
    write_whole,
)

FROZEN = torch.tensor([7.0, 8.0, 9.0])
"""A parameter that is not trained, cut among two ranks by ZeRO-3, which pads it."""


def assert_are(found: Weights, expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        read = found[name].read()
        assert found[name].shape == tuple(value.shape)
        assert read.dtype == value.dtype
        assert torch.equal(read, value), name


def write_halves(folder, *, shapes=SHAPES, flats=None, paddings=None, **optimizer):
    flats = in_halves(VALUES) if flats is None else flats
    more = {"param_alignment_paddings": paddings} if paddings else {}
    return write_ranks(
        folder,
        [
            model_states(param_shapes=shapes, module={"scale": torch.tensor([3.0, 4.0 + rank])})
            for rank in range(2)
        ],
        [{"single_partition_of_fp32_groups": [flat], **more, **optimizer} for flat in flats],
    )


@pytest.mark.parametrize("stage", [1, 2])
def test_parameters_are_put_together_from_the_halves_of_two_ranks(tmp_path, stage):
    found = open_weights(write_halves(tmp_path / "saved"), stage)

    scale = torch.tensor([3.0, 4.0])  # rank 0's: buffers are equal on all ranks
    assert_are(found, {"scale": scale, **VALUES, "tied": VALUES["first"]})
    assert found["tied"] is found["first"]


def test_every_group_of_parameters_has_a_vector_of_its_own(tmp_path):
    first, second = VALUES["first"].flatten(), torch.cat([VALUES["second"], torch.zeros(1)])
    folder = write_ranks(
        tmp_path / "saved",
        [model_states(param_shapes=[{name: SHAPES[0][name]} for name in VALUES])] * 2,
        [
            {"single_partition_of_fp32_groups": [first[:5], second[:3]]},
            {"single_partition_of_fp32_groups": [first[5:], second[3:]]},
        ],
    )

    found = open_weights(folder, 1)

    assert_are({name: found[name] for name in VALUES}, VALUES)


def test_padding_between_parameters_is_left_out(tmp_path):
    flat = torch.cat([VALUES["first"].flatten(), torch.full((3,), PADDING), VALUES["second"]])
    # 9 values, 3 of padding, 5 values, 1 of padding
    halves = torch.cat([flat, torch.tensor([PADDING])]).chunk(2)
    folder = write_halves(tmp_path / "saved", flats=halves, paddings=[[3, 1]])

    found = open_weights(folder, 2)

    assert_are({name: found[name] for name in VALUES}, VALUES)


def test_zero_3_has_an_equal_part_of_every_parameter_on_each_rank(tmp_path):
    frozen = torch.cat([FROZEN, torch.zeros(1)]).chunk(2)
    folder = write_ranks(
        tmp_path / "saved",
        [
            model_states(
                frozen_param_shapes={"frozen": FROZEN.shape},
                frozen_param_fragments={"frozen": part.clone()},
            )
            for part in frozen
        ],
        [{"fp32_flat_groups": flats} for flats in in_sub_groups(VALUES)],
    )

    found = open_weights(folder, 3)

    scale = torch.tensor([3.0, 4.0])
    assert_are(found, {"scale": scale, "frozen": FROZEN, **VALUES, "tied": VALUES["first"]})


def test_untrained_parameters_are_whole_on_every_rank_of_zero_1(tmp_path):
    frozen = {
        "frozen_param_shapes": {"frozen": FROZEN.shape},
        "frozen_param_fragments": {"frozen": FROZEN.bfloat16()},
    }
    folder = write_ranks(
        tmp_path / "saved",
        [model_states(**frozen)] * 2,
        [{"single_partition_of_fp32_groups": [flat]} for flat in in_halves(VALUES)],
    )

    found = open_weights(folder, 1)

    assert_are({"frozen": found["frozen"]}, {"frozen": FROZEN.bfloat16()})


def test_ranks_are_in_the_order_of_their_numbers_not_of_their_files_names(tmp_path):
    value = torch.arange(11.0)
    folder = write_ranks(  # rank 10's file is listed before rank 2's
        tmp_path / "saved",
        [model_states(param_shapes=[{"one": value.shape}], shared_params={})] * 11,
        [{"single_partition_of_fp32_groups": [value[rank : rank + 1]]} for rank in range(11)],
    )

    assert torch.equal(open_weights(folder, 1)["one"].read(), value)


@pytest.mark.parametrize("begin", range(10))
def test_a_range_of_values_is_copied_from_the_parts_that_have_it(begin):
    value = torch.arange(12.0).view(3, 4)
    parts = (value.flatten()[:5], value.flatten()[5:6], value.flatten()[6:])
    target = torch.full((3,), PADDING)

    StoredTensor((3, 4), parts).copy_to(target, begin)

    assert target.tolist() == [begin, begin + 1.0, begin + 2.0]


def test_a_range_beyond_the_values_is_an_error():
    with pytest.raises(ValueError, match=r"^3 values in the partitions, less than the 4 of a sh"):
        StoredTensor((3,), (torch.zeros(3),)).copy_to(torch.zeros(2), 2)


def whole(**more: Any) -> dict[str, Any]:
    """What ZeRO-0 writes of `VALUES`, the first of them tied to another name, in bfloat16."""
    first, second = (value.bfloat16() for value in VALUES.values())
    module = {"first": first, "scale": torch.tensor([3.0]), "second": second, "tied": first}
    return {"module": module, "buffer_names": ["scale"], "optimizer": None, **more}


def test_zero_0_without_master_weights_has_the_modules(tmp_path):
    states = whole()
    found = open_weights(write_whole(tmp_path / "saved", states), 0)
    assert_are(found, states["module"])
    assert found["tied"] is found["first"]


def test_master_weights_of_zero_0_are_found_by_the_values_that_they_round_to(tmp_path):
    """They are in two groups, the second parameter's first; those of equal shape differ."""
    masters = {name: value + 2.0**-12 for name, value in VALUES.items()}
    other = torch.arange(5.0) + 60.0
    states = whole(
        optimizer={"fp32_groups": [[other + 2.0**-10], [masters["first"], masters["second"]]]}
    )
    states["module"]["other"] = other.bfloat16()
    expected = {
        **{name: masters[name] for name in VALUES},
        "scale": torch.tensor([3.0]),
        "tied": masters["first"],
        "other": other + 2.0**-10,
    }

    found = open_weights(write_whole(tmp_path / "saved", states), 0)

    assert_are({name: found[name] for name in expected}, expected)


def test_master_weights_of_a_fused_optimizer_are_one_vector(tmp_path):
    masters = {name: value + 2.0**-12 for name, value in VALUES.items()}
    flat = torch.cat([value.flatten() for value in masters.values()])
    states = whole(optimizer={"fp32_groups_flat": [flat]})

    found = open_weights(write_whole(tmp_path / "saved", states), 0)

    scale = torch.tensor([3.0])
    expected = {"scale": scale, **masters, "tied": masters["first"]}
    assert_are(found, expected)


def damaged(folder, kind):
    """Write a checkpoint that something is wrong with; return its ZeRO stage."""
    halves = in_halves(VALUES)
    match kind:
        case "no files":
            folder.mkdir()
            stage = 1
        case "no file of the model":
            folder.mkdir()
            stage = 0
        case "a rank's file is missing":
            write_halves(folder)
            (folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
            stage = 2
        case "a rank's file is missing, counted by groups":
            write_halves(folder, partition_count=[1, 3])
            stage = 2
        case "too few values":
            write_halves(folder, flats=(halves[0], halves[1][:-1]))
            stage = 1
        case "other master weights":
            write_whole(folder, whole(optimizer={"fp32_groups": [[VALUES["second"] + 1.0]]}))
            stage = 0
        case "a function":
            write_whole(folder, whole(other=os.getcwd))
            stage = 0
        case _:
            write_whole(folder, {"module": VALUES, "optimizer": {"fp32_groups_flat": []}})
            stage = 0
    return stage


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("no files", "ValueError: no *_model_states.pt"),
        (
            "no file of the model",
            (
                "FileNotFoundError: [Errno 2] No such file or directory: "
                "'{folder}/mp_rank_00_model_states.pt'"
            ),
        ),
        ("a rank's file is missing", "ValueError: optimizer states of 1 ranks, of 2"),
        (
            "a rank's file is missing, counted by groups",
            "ValueError: optimizer states of 2 ranks, of 3",
        ),
        ("too few values", "ValueError: 13 values in the partitions, less than the 14 of a shape"),
        ("other master weights", "ValueError: master weights of shape (5,) of no parameter"),
        (
            "a function",
            "UnpicklingError: posix.getcwd, which is no tensor and no plain value",
        ),
        ("no names of buffers", "KeyError: 'buffer_names'"),
    ],
)
def test_what_is_no_checkpoint_of_deepspeeds_is_refused_in_a_line(tmp_path, kind, found):
    folder = tmp_path / "saved"
    stage = damaged(folder, kind)

    with pytest.raises(ResumeError) as error:
        open_weights(folder, stage)

    expected = "expected a model's weights as DeepSpeed stores them"
    assert str(error.value) == f"{folder}: {expected}, found {found.format(folder=folder)}"


def stored(**values):
    return {name: StoredTensor(tuple(each.shape), (each,)) for name, each in values.items()}


def test_weights_are_copied_into_a_model_in_its_own_precision(tmp_path):
    model = nn.Linear(3, 2).bfloat16()
    weight, bias = torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]), torch.tensor([5.0, 6.0])

    copy_weights(stored(weight=weight, bias=bias), model, place=tmp_path)

    assert torch.equal(model.weight.detach(), weight.bfloat16())
    assert torch.equal(model.bias.detach(), bias.bfloat16())


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (
            stored(weight=torch.zeros(3, 2), bias=torch.zeros(2)),
            "weight: expected the shape (2, 3) by its config.yaml, found (3, 2)",
        ),
        (
            stored(weight=torch.zeros(2, 3)),
            "bias: expected the shape (2,) by its config.yaml, found none",
        ),
        (
            stored(weight=torch.zeros(2, 3), bias=torch.zeros(2), gate=torch.zeros(1)),
            "gate: expected the shape none by its config.yaml, found (1,)",
        ),
    ],
)
def test_weights_of_another_model_are_refused_before_any_is_copied(tmp_path, weights, complaint):
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()

    with pytest.raises(ResumeError) as error:
        copy_weights(weights, model, place=tmp_path)

    assert str(error.value) == f"{tmp_path}: {complaint}"
    assert torch.equal(model.weight.detach(), before)
