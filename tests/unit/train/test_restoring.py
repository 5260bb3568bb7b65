"""Checkpoints that are loaded with what a run has changed since: its options, or its layout."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megadga.config.changes import Layout, ResumeChanges, find_changes
from megadga.errors import ResumeError
from megadga.train.restoring import OptimizerOptions, ResumableEngine
from tests.support.zero_files import VALUES, in_sub_groups, model_states, write_ranks

MEANS = {name: value * -3.0 for name, value in VALUES.items()}
SQUARES = {name: value**2 for name, value in VALUES.items()}


class Model(nn.Module):
    """What `zero_files` are checkpoints of."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(3, 3))
        self.second = nn.Parameter(torch.zeros(size))
        self.tied = self.first
        self.register_buffer("scale", torch.zeros(2))


@dataclass
class FakeEngine:
    """One rank with ZeRO-0 in float32, over torch's own optimizer and schedule.

    Attributes:
        loaded: What it was asked to load, as DeepSpeed would load it.
        clipping: What its settings clip gradients to.
    """

    module: Model
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any = None
    clipping: float = 1.0
    data_parallel_group: None = None
    global_steps: int = 0
    global_samples: int = 0
    skipped_steps: int = 0
    loaded: list[tuple[str, str, bool]] = field(default_factory=list[Any])

    @property
    def basic_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer

    @property
    def param_names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.module.named_parameters()}

    def zero_optimization_stage(self) -> int:
        return 0

    def zero_nvme_offload_optimizer(self) -> bool:
        return False

    def gradient_clipping(self) -> float:
        return self.clipping

    def load_checkpoint(
        self, load_dir: str, tag: str, *, load_lr_scheduler_states: bool
    ) -> tuple[str, dict[str, Any]]:
        self.loaded.append((load_dir, tag, load_lr_scheduler_states))
        self.global_steps, self.skipped_steps = 12, 2
        self.optimizer.param_groups[0] |= {"lr": 99.0, "weight_decay": 99.0, "step": 10}
        return f"{load_dir}/{tag}", {"megadga": "as it was"}


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process group is formed: all that is asked of one are the rank and a barrier."""
    monkeypatch.setattr(dist, "get_rank", lambda group=None: 0)
    monkeypatch.setattr(dist, "barrier", lambda: None)


def new_engine(model: Model | None = None, *, halved_every: int | None = None) -> FakeEngine:
    """AdamW, perhaps with a learning rate that is halved every few steps."""
    model = Model() if model is None else model
    optimizer = torch.optim.AdamW([model.first, model.second], lr=0.5, weight_decay=0.125)
    schedule = None
    if halved_every is not None:
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, halved_every, gamma=0.5)
    return FakeEngine(model, optimizer, schedule)


def changed(**keys: tuple[Any, Any]) -> ResumeChanges:
    """What differs between two identities, each key's value before and now."""
    before, now = ({key: pair[side] for key, pair in keys.items()} for side in (0, 1))
    return find_changes(before, now)


def of_layout() -> ResumeChanges:
    """From ZeRO-3 on two ranks to what the engine is."""
    found = changed(
        ranks=(2, 1),
        deepspeed=({"zero_optimization": {"stage": 3}}, {"zero_optimization": {"stage": 0}}),
    )
    assert (found.before, found.after) == (Layout(2, 3), Layout(1, 0))
    return found


def write_zero_3(folder):
    states = {"exp_avg": in_sub_groups(MEANS), "exp_avg_sq": in_sub_groups(SQUARES)}
    flats = in_sub_groups(VALUES)
    client = {"cursors": torch.arange(3), "names": ["a", "b"], "pair": (torch.ones(1), 2)}
    return write_ranks(
        folder,
        [model_states(megadga=client)] * 2,
        [
            {
                "fp32_flat_groups": flats[rank],
                "optimizer_state_dict": {
                    "state": {
                        number: {
                            "step": torch.tensor(10.0),
                            **{key: each[rank][number] for key, each in states.items()},
                        }
                        for number in range(len(flats[rank]))
                    },
                    "param_groups": [{"lr": 99.0, "weight_decay": 99.0}],
                },
            }
            for rank in range(2)
        ],
    )


def test_without_such_changes_deepspeed_loads_its_own_with_the_schedule():
    engine = new_engine()
    loaded = ResumableEngine(engine).load_checkpoint("saved", "step-12", changed())
    assert loaded == ("saved/step-12", {"megadga": "as it was"})
    assert engine.loaded == [("saved", "step-12", True)]
    assert engine.optimizer.param_groups[0]["lr"] == 99.0


def test_changed_options_are_the_runs_own_and_its_schedule_is_at_the_step():
    engine = new_engine(halved_every=4)
    of_rate = [{"optimizer": {"params": {"lr": rate}}} for rate in (99.0, 0.5)]
    changes = changed(deepspeed=(of_rate[0], of_rate[1]))

    loaded = ResumableEngine(engine).load_checkpoint("saved", "step-12", changes)

    assert loaded == ("saved/step-12", {"megadga": "as it was"})
    assert engine.loaded == [("saved", "step-12", False)]
    (group,) = engine.optimizer.param_groups
    assert group["weight_decay"] == 0.125
    assert group["step"] == 10  # a counter is none of the options
    # Ten steps of the twelve were not skipped; halved after four and eight of them.
    assert group["lr"] == 0.125
    assert engine.lr_scheduler.last_epoch == 10


def test_options_are_set_again_with_the_norm_that_gradients_are_clipped_to():
    engine = new_engine()
    vars(engine.optimizer)["clip_grad"] = 5.0
    options = OptimizerOptions(engine)
    engine.optimizer.param_groups[0]["lr"] = 99.0

    options.restore()

    assert engine.optimizer.param_groups[0]["lr"] == 0.5
    assert vars(engine.optimizer)["clip_grad"] == 1.0


def test_an_optimizer_that_clips_nothing_itself_gets_no_norm():
    engine = new_engine()
    OptimizerOptions(engine).restore()
    assert "clip_grad" not in vars(engine.optimizer)


def step_by_hand(parameter: Tensor, name: str) -> None:
    """Do the eleventh step of AdamW on a parameter, with gradients of one."""
    twin = nn.Parameter(VALUES[name].clone())
    optimizer = torch.optim.AdamW([twin], lr=0.5, weight_decay=0.125)
    optimizer.state[twin] = {
        "step": torch.tensor(10.0),
        "exp_avg": MEANS[name].clone(),
        "exp_avg_sq": SQUARES[name].clone(),
    }
    twin.grad = torch.ones_like(twin)
    optimizer.step()
    assert torch.equal(parameter, twin)


def test_a_checkpoint_of_two_ranks_with_zero_3_goes_on_on_one_without_zero(tmp_path, capsys):
    folder = write_zero_3(tmp_path / "step-12")
    engine = new_engine()

    path, client = ResumableEngine(engine).load_checkpoint(str(tmp_path), "step-12", of_layout())

    assert path == str(folder)
    assert client["megadga"]["cursors"].tolist() == [0, 1, 2]
    assert client["megadga"]["names"] == ["a", "b"]
    assert client["megadga"]["pair"] == (torch.ones(1), 2)
    assert client.keys() == {"megadga"}
    assert engine.loaded == []  # not by DeepSpeed
    assert (engine.global_steps, engine.global_samples, engine.skipped_steps) == (12, 96, 2)
    assert engine.optimizer.param_groups[0]["lr"] == 0.5
    for name in VALUES:
        assert torch.equal(engine.module.get_parameter(name).detach(), VALUES[name])
    for parameter in (engine.module.first, engine.module.second):
        parameter.grad = torch.ones_like(parameter)
    engine.optimizer.step()
    step_by_hand(engine.module.first.detach(), "first")
    step_by_hand(engine.module.second.detach(), "second")
    what = "the checkpoint step-12 of 2 ranks, ZeRO-3"
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"dividing {what}, for 1 rank, ZeRO-0: ")
    assert lines[-1].startswith(f"divided {what} in ")


def test_other_ranks_than_the_first_say_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda group=None: 1)
    write_zero_3(tmp_path / "step-12")
    ResumableEngine(new_engine()).load_checkpoint(str(tmp_path), "step-12", of_layout())
    assert capsys.readouterr().err == ""


def test_what_is_returned_is_not_in_the_files_any_more(tmp_path):
    folder = write_zero_3(tmp_path / "step-12")
    engine = ResumableEngine(new_engine())
    _, client = engine.load_checkpoint(str(tmp_path), "step-12", of_layout())

    (model_file,) = folder.glob("*_rank_0_*model_states.pt")
    content = model_file.read_bytes()
    with model_file.open("r+b") as file:  # in place: a view of the file would change
        file.write(bytes(len(content)))

    assert client["megadga"]["cursors"].tolist() == [0, 1, 2]


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    write_zero_3(tmp_path / "step-12")
    engine = ResumableEngine(new_engine(Model(6)))

    with pytest.raises(ResumeError) as error:
        engine.load_checkpoint(str(tmp_path), "step-12", of_layout())

    assert str(error.value) == (
        f"{tmp_path / 'step-12'}: second: expected the shape (6,), found (5,)"
    )
