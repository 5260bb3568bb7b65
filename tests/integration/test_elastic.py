"""Runs that go on on other ranks, with ZeRO's stages, and with settings that have changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import alone, on_ranks, run_job
from tests.support.ranks import run_ranks
from tests.support.runs import write_run
from tests.support.shards import write_sets

CLI = "megadga.cli"
RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing:
  type: dga
  interval: 4
  step_size: 0.5
  epoch_budget: null
  repeat_decay: null
  probe: {type: directional, sequences_per_domain: 3, specific_sequences: 3, direction: {rank: 2}}
training: {steps: 6, global_batch_size: 12, micro_batch_size: 1}
deepspeed: zero.json
evaluation: {interval: 4, sequences: 3}
checkpoint: {interval: 10, keep_last: 1}
"""
COSINE: dict[str, Any] = {
    "type": "WarmupCosineLR",
    "params": {"total_num_steps": 50, "warmup_num_steps": 5, "warmup_min_ratio": 0.1},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


def new_folder(folder: Path, shards: Path) -> Path:
    folder.mkdir()
    (folder / "shards").symlink_to(shards)
    write_run(
        folder,
        RUN,
        zero_optimization={"stage": 2},
        zero_force_ds_cpu_optimizer=False,
        gradient_clipping=1.0,
        scheduler=COSINE,
    )
    return folder


def train(folder: Path, *overrides: str, ranks: int, code: int = 0, options: Any = ()) -> str:
    arguments = [CLI, "train", "run.yaml", *(f"--set={each}" for each in overrides), *options]
    ended = run_job(on_ranks(*arguments, ranks=ranks), folder)
    assert ended.code == code, ended.text
    return ended.text


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "out/metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["type"] == kind]


def check_equal(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """The sequences are the same, and losses and weights up to the order of sums."""
    assert [each["step"] for each in found] == [each["step"] for each in expected]
    for one, other in zip(expected, found, strict=True):
        for key in ("sequences_by_domain", "learning_rate"):
            assert other.get(key) == one.get(key)
        for key in ("loss", "loss_by_domain", "averaged_weights"):
            assert other.get(key) == pytest.approx(one.get(key), abs=1e-5)


IN_FLIGHT = (
    "mixing.interval=3",
    "mixing.probe={type: in_flight, sequences_per_domain: 3, specific_sequences: 3}",
    "mixing.probe.direction={rank: 2}",
    "mixing.probe.direction_interval=2",
)


@pytest.mark.parametrize(
    ("leg", "mixing"),
    [
        (4, ()),
        pytest.param(13, (), marks=pytest.mark.thorough),
        pytest.param(13, IN_FLIGHT, marks=pytest.mark.thorough),
    ],
    ids=["16 steps", "52 steps", "52 steps in flight"],
)
def test_a_run_goes_on_on_other_ranks_and_stages_as_if_it_had_stayed(
    tmp_path, shards, leg, mixing
):
    whole, parts = new_folder(tmp_path / "whole", shards), tmp_path / "parts"

    def steps(legs):
        saved = f"checkpoint={{interval: {leg}, keep_last: null}}"
        return *mixing, f"training.steps={legs * leg}", f"evaluation.interval={2 * leg}", saved

    train(whole, *steps(4), ranks=4)
    shutil.copytree(whole, parts, symlinks=True)
    said = train(
        parts,
        *steps(2),
        *("training.micro_batch_size=2", "deepspeed.zero_optimization.stage=3"),
        ranks=2,
        options=[f"--from=step-{leg:08d}"],
    )
    train(parts, *steps(3), "deepspeed.zero_optimization.stage=1", ranks=3)
    last = ("deepspeed.zero_optimization.stage=0", "training.micro_batch_size=4")
    # DeepSpeed's default, so that nothing but the key is new.
    eps = "deepspeed.optimizer.params.eps=1.0e-8"
    settings = [f"--set={each}" for each in (*mixing, eps)]
    checked = run_job(alone(CLI, "check", "run.yaml", "--resume", *settings), parts)
    allowed = ["--allow=deepspeed.optimizer.params.eps"]
    train(parts, *steps(4), *last, eps, ranks=1, options=allowed)

    assert f"step-{leg:08d} of 4 ranks, ZeRO-2, for 2 ranks, ZeRO-3" in said
    assert f"changed since step-{leg:08d}: deepspeed.zero_optimization.stage: 2 -> 3" in said
    assert checked.code == 2
    assert "to go on with it: --allow deepspeed.optimizer.params.eps\n" in checked.text
    check_equal(records(whole, "train"), records(parts, "train"))
    check_equal(records(whole, "update"), records(parts, "update"))
    first, *_ = (each for each in records(parts, "event") if each["event"] == "changed")
    assert first["step"] == leg
    assert first["keys"] == {
        "training.micro_batch_size": [1, 2],
        "training.steps": [4 * leg, 2 * leg],
        "deepspeed.zero_optimization.stage": [2, 3],
        "ranks": [4, 2],
    }


LAYOUTS = (
    ("1", "fp32"),
    ("3", "fp32"),
    ("2", "fp32"),
    ("0", "fp32"),
    ("2-offload", "fp32"),
    ("3-subgroups", "fp32"),
    ("2-round-robin", "fp32"),
    ("3", "bf16"),
    ("1-accumulated", "bf16"),
    ("0", "bf16"),
    ("2", "fp32"),
)


def test_weights_and_moments_are_the_same_bits_in_every_layout(tmp_path):
    worker = "tests.integration.workers.divided_states"
    differing = run_ranks(worker, 2, tmp_path, json.dumps(LAYOUTS))
    assert len(differing) == len(LAYOUTS) - 1
    assert {name: names for name, names in differing.items() if names} == {}


STEP_LR = "deepspeed.scheduler={{type: StepLR, params: {{step_size: 2, gamma: {gamma}}}}}"
STABLE_DECAY = (
    "deepspeed.scheduler={{type: WarmupStableDecayLR, params: {{total_num_steps: 9, "
    "warmup_num_steps: 2, decay_num_steps: {decay}}}}}"
)
DECAY = (
    "deepspeed.scheduler={type: WarmupDecayLR, params: {total_num_steps: 9, "
    "warmup_max_lr: 0.01, warmup_num_steps: 2, warmup_type: linear}}"
)
ADAMW = (
    "deepspeed.optimizer.params={{lr: {lr}, betas: {betas}, weight_decay: {decay}, "
    "torch_adam: true}}"
)
OLD = ADAMW.format(lr=1e-3, betas=[0.9, 0.999], decay=0.0)
NEW = ADAMW.format(lr=3e-3, betas=[0.8, 0.99], decay=0.1)
CHANGED_OPTIONS = {
    "zero0-torch-schedule": (
        ["deepspeed.zero_optimization.stage=0", OLD, STEP_LR.format(gamma=0.5)],
        ["deepspeed.zero_optimization.stage=0", NEW, STEP_LR.format(gamma=0.1)],
    ),
    "zero1-other-schedule": (
        ["deepspeed.zero_optimization.stage=1", OLD],
        ["deepspeed.zero_optimization.stage=1", NEW, DECAY],
    ),
    "zero2-cosine": (
        [OLD, "deepspeed.gradient_clipping=0.5"],
        [NEW, "deepspeed.scheduler.params.warmup_num_steps=4"],
    ),
    "zero3-stable-decay": (
        ["deepspeed.zero_optimization.stage=3", OLD, STABLE_DECAY.format(decay=2)],
        ["deepspeed.zero_optimization.stage=3", NEW, STABLE_DECAY.format(decay=4)],
    ),
}


def test_new_settings_of_the_optimizer_take_effect_at_once(tmp_path, shards):
    folder = new_folder(tmp_path / "options", shards)
    worker = "tests.integration.workers.changed_options"
    ended = run_job(alone(worker, json.dumps(CHANGED_OPTIONS)), folder)
    assert ended.code == 0, ended.text
    found = json.loads(ended.text.splitlines()[-1])
    for name in CHANGED_OPTIONS:
        resumed, always = found[name]["resumed"], found[name]["always"]
        assert resumed["options"] == always["options"], name
        assert resumed["clipping"] == always["clipping"], name
        assert resumed["rates"][3:] == always["rates"][3:], name
        assert resumed["rates"][:3] != always["rates"][:3], name
        (keys,) = found[name]["changed"]
        assert keys["deepspeed.optimizer.params.lr"] == [1e-3, 3e-3], name
