"""What an engine of another layout is given of a checkpoint: this rank's values, by parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megadga.errors import ResumeError
from megadga.train.resharding import (
    Partition,
    Piece,
    load_states,
    num_values,
    partitions_of,
)
from megadga.train.states import TrainingStates
from megadga.train.weights import StoredTensor, Weights
from tests.support.zero_files import PADDING, VALUES, in_halves, in_sub_groups

PLACE = Path("runs/one/checkpoints/step-00000012")
STATES = {
    "exp_avg": {name: value * -3.0 for name, value in VALUES.items()},
    "exp_avg_sq": {name: value**2 for name, value in VALUES.items()},
}
FROZEN = torch.tensor([7.0, 8.0, 9.0])
SCALE = torch.tensor([3.0, 4.0])


class Model(nn.Module):
    """The parameters of `VALUES`, one of them with two names, one that is not trained; buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(3, 3))
        self.second = nn.Parameter(torch.zeros(5))
        self.tied = self.first
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("scale", torch.zeros(2))
        self.register_buffer("cache", torch.full((1,), 5.0), persistent=False)

    @property
    def trained(self) -> list[nn.Parameter]:
        return [self.first, self.second]


class Custom(torch.optim.AdamW):
    """An optimizer that is not torch's own, as DeepSpeed's are not."""


class Muon(torch.optim.SGD):
    """An optimizer by the name of one whose states are of matrices."""


@dataclass
class ZeroOptimizer:
    """DeepSpeed's around another optimizer: it has partitions, and keeps what it is to load."""

    template: Mapping[str, Any]
    loaded: list[tuple[Any, dict[str, Any]]] = field(default_factory=list[Any])
    events: list[str] = field(default_factory=list[str])

    def state_dict(self) -> Mapping[str, Any]:
        return self.template

    def load_state_dict(self, *given: Any, **options: Any) -> None:
        self.loaded.append((given, options))
        self.events.append("loaded")

    def checkpoint_event_prologue(self) -> None:
        self.events.append("prologue")

    def checkpoint_event_epilogue(self) -> None:
        self.events.append("epilogue")


@dataclass
class FakeEngine:
    """What `load_states` asks an engine; whether its states are on NVMe is a setting."""

    stage: int
    module: Model
    optimizer: Any
    basic_optimizer: Any
    nvme: bool = False
    data_parallel_group: None = None
    global_steps: int = 0
    global_samples: int = 0
    skipped_steps: int = 0

    @property
    def param_names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.module.named_parameters()}

    def zero_optimization_stage(self) -> int:
        return self.stage

    def zero_nvme_offload_optimizer(self) -> bool:
        return self.nvme


@pytest.fixture(autouse=True)
def rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process group is formed: all that is asked of one is the rank."""
    monkeypatch.setattr(dist, "get_rank", lambda group=None: 0)


@pytest.fixture(params=[0, 1], ids=["rank 0", "rank 1"])
def rank(request: pytest.FixtureRequest, rank_0: None, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(dist, "get_rank", lambda group=None: request.param)
    return request.param


def stored(values: Mapping[str, Tensor]) -> Weights:
    return {name: StoredTensor(tuple(each.shape), (each,)) for name, each in values.items()}


def found_states(
    states: Mapping[str, Mapping[str, Tensor]] = STATES, **changes: Any
) -> TrainingStates:
    weights = {**VALUES, "tied": VALUES["first"], "frozen": FROZEN, "scale": SCALE}
    fields: dict[str, Any] = {
        "weights": stored(weights),
        "states": {key: stored(each) for key, each in states.items()},
        "scalars": {"step": torch.tensor(10.0)},
        "global_steps": 12,
        "global_samples": 96,
        "skipped_steps": 2,
        "client_state": {},
    }
    return TrainingStates(**{**fields, **changes})


def torch_engine(kind: type[torch.optim.Optimizer] = torch.optim.AdamW, **more: Any) -> FakeEngine:
    """ZeRO-0 in float32: the optimizer steps the parameters themselves."""
    model = Model()
    options: dict[str, Any] = {"lr": 0.5} if issubclass(kind, torch.optim.SGD) else {"lr": 0.25}
    optimizer = kind(model.trained, **options)
    return FakeEngine(0, model, optimizer, optimizer, **more)


def basic_over(flats: list[Tensor], kind: Any = torch.optim.AdamW) -> Any:
    return kind([{"params": [nn.Parameter(flat)]} for flat in flats], lr=0.25)


def zero_engine(stage: int, *, round_robin: bool = False) -> FakeEngine:
    """ZeRO-1 or 2 on two ranks; its own order of the parameters, if it has one, is reversed."""
    model = Model()
    basic = basic_over([torch.zeros(7)])
    optimizer = ZeroOptimizer({"base_optimizer_state": basic.state_dict(), "zero_stage": stage})
    if round_robin:
        vars(optimizer)["round_robin_bit16_groups"] = [model.trained[::-1]]
        vars(optimizer)["round_robin_bit16_offsets"] = [[0, 5]]
    else:
        vars(optimizer)["bf16_groups"] = [model.trained]
    return FakeEngine(stage, model, optimizer, basic)


def half_of(parameter: Tensor) -> int:
    return -(-parameter.numel() // 2)


def zero_3_engine(rank: int) -> FakeEngine:
    """ZeRO-3 on two ranks, with one sub-group: rank 1's part of the first parameter is padded."""
    model = Model()
    for each in model.trained:
        vars(each)["ds_numel"] = each.numel()
        vars(each)["partition_numel"] = partial(half_of, each)
    flats = [torch.zeros(8)]
    basic = basic_over(flats)
    optimizer = ZeroOptimizer({"optimizer_state_dict": basic.state_dict(), "zero_stage": 3})
    vars(optimizer)["fp16_groups"] = [model.trained]
    vars(optimizer)["fp32_partitioned_groups_flat"] = flats
    return FakeEngine(3, model, optimizer, basic)


def load(engine: FakeEngine, found: TrainingStates | None = None) -> int:
    """Load states; return how many values were reported as read."""
    read: list[int] = []
    given = found_states() if found is None else found
    load_states(engine, given, PLACE, advance=read.append)
    return sum(read)


def without_padding(flat: Tensor) -> Tensor:
    return torch.where(flat == PADDING, 0.0, flat)


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert [each.shape for each in found] == [each.shape for each in expected]
    assert all(map(torch.equal, found, expected))


def test_a_partition_is_filled_with_its_ranges_and_zeros_elsewhere():
    pieces = (Piece("first", 7, 9, 1), Piece("unknown", 0, 2, 3), Piece("second", 0, 1, 5))
    read: list[int] = []

    values = Partition((2, 4), pieces).fill(stored(VALUES), read.append)

    assert values.tolist() == [[0.0, 7.25, 8.25, 0.0], [0.0, -2.125, 0.0, 0.0]]
    assert read == [2, 2, 1]


def test_states_of_float32_parameters_are_those_that_torchs_optimizer_goes_on_with():
    engine, other = torch_engine(), torch_engine()
    read = load(engine)

    with torch.no_grad():  # the same step by hand, of torch's own state
        for name, parameter in zip(VALUES, other.module.trained, strict=True):
            parameter.copy_(VALUES[name])
            other.optimizer.state[parameter] = {
                "step": torch.tensor(10.0),
                **{key: each[name].clone() for key, each in STATES.items()},
            }
    for each in (engine, other):
        for parameter in each.module.trained:
            parameter.grad = torch.ones_like(parameter)
        each.optimizer.step()

    assert_equal(
        [each.detach() for each in engine.module.trained],
        [each.detach() for each in other.module.trained],
    )
    assert torch.equal(engine.module.frozen, FROZEN)
    buffers = dict(engine.module.named_buffers())
    assert torch.equal(buffers["scale"], SCALE)
    assert buffers["cache"].item() == 5.0
    assert (engine.global_steps, engine.global_samples, engine.skipped_steps) == (12, 96, 2)
    assert read == num_values(engine, found_states()) - 14 == 28  # weights are copied


def test_options_of_the_optimizer_stay_as_they_are():
    engine = torch_engine()
    load(engine)
    assert [group["lr"] for group in engine.optimizer.param_groups] == [0.25]


def test_a_parameter_without_states_gets_none():
    """No loss has depended on it."""
    states = {key: {"second": each["second"]} for key, each in STATES.items()}
    engine = torch_engine()

    load(engine, found_states(states))

    first, second = engine.module.trained
    assert engine.optimizer.state.get(first, {}) == {}
    assert torch.equal(engine.optimizer.state[second]["exp_avg"], STATES["exp_avg"]["second"])


@pytest.mark.parametrize("stage", [1, 2])
def test_zero_1_and_2_load_this_ranks_half_of_the_concatenation(rank, stage):
    engine = zero_engine(stage)

    read = load(engine)

    ((given, options),) = engine.optimizer.loaded
    assert given == ()
    assert options.keys() == {"state_dict_list", "load_optimizer_states", "load_from_fp32_weights"}
    saved = options["state_dict_list"][rank]
    assert saved["zero_stage"] == stage  # as it would save it now
    half = without_padding(in_halves(VALUES)[rank])
    assert_equal(saved["single_partition_of_fp32_groups"], [half])
    base = saved["base_optimizer_state"]
    assert base["state"].keys() == {0}
    for key, values in STATES.items():
        assert torch.equal(base["state"][0][key], without_padding(in_halves(values)[rank]))
    assert base["state"][0]["step"] == torch.tensor(10.0)
    assert base["param_groups"][0]["lr"] == 0.25
    assert torch.equal(engine.module.first.detach(), VALUES["first"])
    assert read == num_values(engine, found_states()) == 3 * 7


def test_round_robin_gradients_have_an_order_of_their_own(rank):
    engine = zero_engine(2, round_robin=True)

    load(engine)

    ((_, options),) = engine.optimizer.loaded
    (flat,) = options["state_dict_list"][rank]["single_partition_of_fp32_groups"]
    reversed_order = dict(reversed(list(VALUES.items())))
    assert torch.equal(flat, in_halves(reversed_order)[rank])


def test_zero_3_loads_this_ranks_half_of_each_parameter(rank):
    engine = zero_3_engine(rank)

    load(engine)

    assert engine.optimizer.events == ["prologue", "loaded", "epilogue"]
    ((_, options),) = engine.optimizer.loaded
    saved = options["state_dict_list"][rank]
    masters = without_padding(torch.cat(in_sub_groups(VALUES)[rank]))
    assert_equal(saved["fp32_flat_groups"], [masters])
    (state,) = saved["optimizer_state_dict"]["state"].values()
    for key, values in STATES.items():
        assert torch.equal(state[key], without_padding(torch.cat(in_sub_groups(values)[rank])))


def test_zero_3_copies_buffers_and_untrained_parameters_itself():
    engine = zero_3_engine(0)

    load(engine)

    buffers = dict(engine.module.named_buffers())
    assert torch.equal(buffers["scale"], SCALE)
    assert torch.equal(engine.module.frozen, FROZEN)
    assert buffers["cache"].item() == 5.0  # not in a checkpoint
    assert not engine.module.first.any()  # the optimizer has it


def test_untrained_parameters_of_zero_3_are_copied_by_rank_0_alone(monkeypatch):
    """It broadcasts them, as they are gathered."""
    monkeypatch.setattr(dist, "get_rank", lambda group=None: 1)
    engine = zero_3_engine(1)
    load(engine)
    assert not engine.module.frozen.any()


def mixed_engine(*, fused: bool) -> FakeEngine:
    """ZeRO-0 in bfloat16: the optimizer has float32 weights beside the parameters."""
    model = Model()
    basic = basic_over([torch.zeros(14)] if fused else [torch.zeros(9), torch.zeros(5)])
    template = {"optimizer_state_dict": basic.state_dict(), "loss_scale": 1.0}
    optimizer = ZeroOptimizer(
        {**template, **({"fp32_groups_flat": []} if fused else {"fp32_groups": []})}
    )
    vars(optimizer)["fp16_groups"] = [model.trained]
    if not fused:
        vars(optimizer)["fp32_groups"] = []
    return FakeEngine(0, model, optimizer, basic)


def test_master_weights_of_zero_0_are_of_each_parameter():
    engine = mixed_engine(fused=False)

    load(engine)

    (((saved,), _),) = engine.optimizer.loaded
    assert_equal(saved["fp32_groups"][0], [*VALUES.values()])
    states = saved["optimizer_state_dict"]["state"]
    found = [states[number]["exp_avg"] for number in range(2)]
    assert_equal(found, [*STATES["exp_avg"].values()])
    assert saved["loss_scale"] == 1.0
    assert "fp32_groups_flat" not in saved


def test_counters_are_plain_numbers_for_optimizers_that_are_not_torchs():
    engine = mixed_engine(fused=False)
    engine.basic_optimizer = basic_over([torch.zeros(9), torch.zeros(5)], Custom)

    load(engine)

    (((saved,), _),) = engine.optimizer.loaded
    steps = [state["step"] for state in saved["optimizer_state_dict"]["state"].values()]
    assert [(type(step), step) for step in steps] == [(int, 10), (int, 10)]


def test_master_weights_of_a_fused_optimizer_are_one_vector():
    engine = mixed_engine(fused=True)

    load(engine)

    (((saved,), _),) = engine.optimizer.loaded
    (flat,) = saved["fp32_groups_flat"]
    assert torch.equal(flat, torch.cat([value.flatten() for value in VALUES.values()]))
    (state,) = saved["optimizer_state_dict"]["state"].values()
    vector = torch.cat([value.flatten() for value in STATES["exp_avg"].values()])
    assert torch.equal(state["exp_avg"], vector)
    assert "fp32_groups" not in saved


def test_fused_optimizers_count_steps_in_their_groups(monkeypatch):
    monkeypatch.setattr("megadga.train.resharding.FusedAdam", Custom)  # it needs a GPU
    engine = mixed_engine(fused=True)
    engine.basic_optimizer = basic_over([torch.zeros(14)], Custom)

    load(engine)

    (((saved,), _),) = engine.optimizer.loaded
    base = saved["optimizer_state_dict"]
    assert [group["step"] for group in base["param_groups"]] == [10]
    assert base["state"][0].keys() == STATES.keys()


def test_plain_sgd_has_nothing_but_weights():
    engine = torch_engine(torch.optim.SGD)
    load(engine, found_states({}, scalars={}))
    assert not any(engine.optimizer.state.values())
    assert torch.equal(engine.module.second.detach(), VALUES["second"])


def test_an_optimizer_that_has_not_stepped_needs_no_states():
    engine = torch_engine()
    load(engine, found_states({}, scalars={}, global_steps=2, skipped_steps=2))
    assert not any(engine.optimizer.state.values())


@pytest.mark.parametrize(
    ("changes", "engine", "complaint"),
    [
        (
            {"weights": stored({**VALUES, "second": torch.zeros(6), "frozen": FROZEN})},
            torch_engine(),
            "second: expected the shape (5,), found (6,)",
        ),
        (
            {"weights": stored(VALUES)},
            torch_engine(),
            "frozen: expected the shape (3,), found none",
        ),
        (
            {},
            torch_engine(nvme=True),
            (
                "expected optimizer states in memory, to divide them otherwise, found "
                "zero_optimization.offload_optimizer.device: nvme"
            ),
        ),
        ({"states": {}}, torch_engine(), "expected states of AdamW in its files, found none"),
        (
            {},
            torch_engine(Muon),
            (
                "expected an optimizer with one state for each weight, to divide its states "
                "otherwise, found Muon"
            ),
        ),
    ],
    ids=["shape", "missing", "nvme", "no states", "muon"],
)
def test_what_cannot_be_divided_is_refused_before_anything_is_loaded(changes, engine, complaint):
    with pytest.raises(ResumeError) as error:
        load(engine, found_states(**changes))
    assert str(error.value) == f"{PLACE}: {complaint}"
    assert engine.global_steps == 0
    assert not engine.module.first.any()


def test_partitions_of_several_groups_are_one_for_each(rank):
    """The second group's parameters are whole on one of the ranks."""
    model = Model()
    basic = basic_over([torch.zeros(5), torch.zeros(3)])
    optimizer = SimpleNamespace(bf16_groups=[[model.first], [model.second]])
    engine = FakeEngine(1, model, optimizer, basic)

    found = partitions_of(engine)

    assert (
        found
        == [
            [
                Partition((5,), (Piece("first", 0, 5, 0),)),
                Partition((3,), (Piece("second", 0, 3, 0),)),
            ],
            [
                Partition((5,), (Piece("first", 5, 9, 0),)),
                Partition((3,), (Piece("second", 3, 5, 0),)),
            ],
        ][rank]
    )
