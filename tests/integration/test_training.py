"""Whole runs as people start them: launchers, death by SIGKILL, resumption, refusals."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from megadga.run_folder.domain_log import DOMAIN_LOG
from megadga.run_folder.lock import RunLock
from tests.support.checkpoints import differing
from tests.support.engines import RELEASED
from tests.support.jobs import alone, by_deepspeed, by_torchrun, on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing:
  type: dga
  preset: paper
  interval: 2
  step_size: 0.02
  ema: 0.5
  probe: {type: sharded, sequences_per_domain: 2, specific_sequences: 3}
training: {steps: 6, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 2, sequences: 3}
checkpoint: {interval: 3, keep_last: 2}
"""
CLI = "megadga.cli"
TIMES = ("tokens_per_s", "seconds", "probe_s", "observed_overhead")
OF_CHECKPOINTS = ("seconds", "waited_s", "bytes", "bytes_per_s")
STABLE_DECAY = {
    "type": "WarmupStableDecayLR",
    "params": {
        "total_num_steps": "auto",
        "warmup_num_steps": 2,
        "decay_num_steps": 3,
        "warmup_min_ratio": 0.1,
    },
}
COSINE = {
    "type": "WarmupCosineLR",
    "params": {"total_num_steps": "auto", "warmup_num_steps": 2, "warmup_min_ratio": 0.1},
}


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        stage: ZeRO stage.
        scheduler: DeepSpeed's block.
        overrides: What the run says otherwise than ``RUN``.
        before_death: What the part that is killed says otherwise than the whole.
        launched: Whether the parts are started by launchers, after the death by another than
            before it.
    """

    stage: int
    scheduler: dict[str, Any]
    overrides: tuple[str, ...] = ()
    before_death: tuple[str, ...] = ()
    launched: bool = False

    def released(self, folder: Path) -> bool:
        """Whether ZeRO-3 releases parameters there: in the parts, which end like the whole."""
        return self.stage == 3 and folder.name == "parts"


TWO_SETS = (
    "data.specific={target: {path: shards/specific}, "
    "short: {path: shards/chat, packing: chat, importance: 2.0}}"
)
DIALOGUES = (
    "data.domains=[{name: d0, path: shards/domains/d0}, {name: d1, path: shards/domains/d1}, "
    "{name: d2, path: shards/chat, packing: chat}]"
)
CASES = {
    "zero2-fp32-wsd": Case(2, STABLE_DECAY, launched=True),
    # Without evaluations before its death the run must not differ: they leave no trace.
    "zero3-bf16-cosine": Case(
        3,
        COSINE,
        (
            "training.precision=bf16",
            "model.activation_checkpointing=true",
            "deepspeed.optimizer.params.fused=true",
            "data.specific={target: {path: shards/examples, packing: examples}}",
            DIALOGUES,
            "mixing.probe={type: directional, sequences_per_domain: 2, specific_sequences: 3}",
        ),
        ("evaluation=null",),
    ),
    # The checkpoint lies between two updates of one direction, and has it.
    "zero1-fp32-in-flight": Case(
        1,
        STABLE_DECAY,
        (
            "mixing.interval=1",
            "deepspeed.optimizer.params.fused=true",
            "mixing.probe={type: in_flight, sequences_per_domain: 2, specific_sequences: 3}",
            "mixing.probe.direction={rank: 2}",
            "mixing.probe.direction_interval=2",
        ),
    ),
    # The checkpoint lies between two updates, and has the sets' weights.
    "zero2-fp32-grape": Case(
        2,
        STABLE_DECAY,
        (
            TWO_SETS,
            "mixing={type: grape, interval: 2, step_size: 0.5, task_step_size: 2.0}",
            "mixing.score=clipped",
            "mixing.probe={sequences_per_domain: 2, specific_sequences: 3}",
        ),
    ),
}


# The learning rate is raised to 1e30 after three steps.
RAISED = (
    "{lr_range_test_min_lr: 1.0e-3, lr_range_test_step_size: 3, "
    "lr_range_test_step_rate: 1.0e+33, lr_range_test_staircase: true}"
)
DIVERGES = [
    "output=../diverged",
    "deepspeed.scheduler.type=LRRangeTest",
    f"deepspeed.scheduler.params={RAISED}",
    "training.steps=8",
    "training.non_finite_limit=3",
    "checkpoint={interval: 1, keep_last: 1}",
]


FP16 = [
    "output=../fp16",
    "training.precision=fp16",
    "training.steps=5",
    "deepspeed.fp16={initial_scale_power: 18, hysteresis: 1}",
    "deepspeed.scheduler.params.total_num_steps=6",
]
# Everything overflows at this scale, and DeepSpeed may not lower it.
TOO_HIGH = [
    *("output=../too_high", *FP16[1:3], FP16[4]),
    "deepspeed.fp16={initial_scale_power: 40, min_loss_scale: 1099511627776, hysteresis: 1}",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


def new_folder(folder: Path, shards: Path, case: Case) -> Path:
    """A folder with a configuration and data, ready to train in."""
    folder.mkdir()
    (folder / "shards").symlink_to(shards)
    write_run(
        folder,
        RUN,
        zero_optimization={"stage": case.stage, **(RELEASED if case.released(folder) else {})},
        gradient_clipping=1.0,
        scheduler=case.scheduler,
    )
    return folder


def train_arguments(*overrides: str) -> list[str]:
    return [CLI, "train", "run.yaml", *(f"--set={override}" for override in overrides)]


def records(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """What was logged, but for the numbers that two runs do not share."""
    lines = (folder / "out" / name).read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in (*TIMES, *OF_CHECKPOINTS)}
        for line in lines
    ]


def shared_buffers() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("deepspeed_*")}  # noqa: S108


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_run_killed_after_a_checkpoint_ends_like_the_uninterrupted_one(tmp_path, shards, case):
    whole, parts = (new_folder(tmp_path / name, shards, case) for name in ("whole", "parts"))
    buffers = shared_buffers()
    killed_run = ["tests.integration.workers.killed_run", "run.yaml", "5"]

    start, start_again = (by_torchrun, by_deepspeed) if case.launched else (on_ranks, on_ranks)
    uninterrupted = run_job(on_ranks(*train_arguments(*case.overrides)), whole)
    killed = run_job(start(*killed_run, *case.overrides, *case.before_death), parts)
    written_before = records(parts)
    resumed = run_job(start_again(*train_arguments(*case.overrides)), parts)

    assert uninterrupted.code == 0, uninterrupted.text
    assert killed.code != 0
    assert written_before[-1]["step"] == 4  # killed in step 5, the checkpoint is of step 3
    assert resumed.code == 0, resumed.text
    assert "continues after step 3" in resumed.text
    expected, found = records(whole), records(parts)
    event = {"type": "event", "step": 3, "event": "resume", "checkpoint": "step-00000003"}
    found.remove(event)
    if "evaluation=null" in case.before_death:
        found = [r for r in found if r.get("event") != "changed"]
        expected = [r for r in expected if r["type"] != "evaluation" or r["step"] > 3]
    assert found == expected
    assert {r["step"] for r in records(parts, "metrics.abandoned.jsonl")} == {4}
    if "evaluation=null" not in case.before_death:
        logs = ((each / "out" / DOMAIN_LOG).read_bytes() for each in (whole, parts))
        assert len(set(logs)) == 1
    last = "out/checkpoints/step-00000006"
    # Checkpoints hold DeepSpeed's settings, and those are others where parameters are released.
    places = differing(whole / last, parts / last)
    assert [place for place in places if ".ds_config." not in place] == []
    assert shared_buffers() <= buffers


def test_one_process_trains_and_refuses_what_it_must(tmp_path, shards):
    folder = new_folder(tmp_path / "alone", shards, CASES["zero2-fp32-wsd"])
    short = ["training.steps=2", "deepspeed.scheduler.params.total_num_steps=6"]

    finished = run_job(alone(*train_arguments(*short)), folder)

    assert finished.code == 0, finished.text
    assert "step 2/2  loss" in finished.text
    assert "step 2: validation target" in finished.text
    train = [record for record in records(folder) if record["type"] == "train"]
    assert [record["step"] for record in train] == [1, 2]
    assert train[0]["sequences_by_domain"] == {"d0": 3, "d1": 3, "d2": 2}
    assert "seed: 17" in (folder / "out/config.yaml").read_text()
    _check_refusals(folder)


def test_several_specific_sets_are_told_of_one_by_one(tmp_path, shards):
    folder = new_folder(tmp_path / "alone", shards, CASES["zero2-fp32-wsd"])
    short = ["training.steps=2", "deepspeed.scheduler.params.total_num_steps=6"]

    finished = run_job(alone(*train_arguments(TWO_SETS, "mixing.combine=worst", *short)), folder)
    drawn = run_job(alone(CLI, "report", "out", "--figures", "figures"), folder)

    assert finished.code == 0, finished.text
    by_type = {record["type"]: record for record in records(folder)}
    update, evaluation = by_type["update"], by_type["evaluation"]
    for told in (update["target_alignments"], update["target_losses"], evaluation["specific"]):
        assert list(told) == ["target", "short"]
    assert sorted(update["target_weights"].values()) == [0.0, 1.0]
    assert drawn.code == 0, drawn.text
    assert {"alignments_1.png", "alignments_2.png"} <= {
        each.name for each in folder.glob("figures/*")
    }


def _check_divergence(output: Path, code: int, text: str) -> None:
    """A run that loses its numbers ends with an error, and what was good of it is kept.

    Losses stay finite here: with weights of 1e30 every prediction is uniform.
    """
    assert code == 2
    assert text.splitlines()[-1] == (
        "training: expected finite losses and gradients, found steps 5 to 7 without "
        "(training.non_finite_limit: 3); step 7: gradient norm not finite, in a batch of "
        "d0, d1, d2; no checkpoint was written since, the newest one is "
        "../diverged/checkpoints/step-00000004"
    )
    assert "step 5: checkpoint_skipped" in text
    assert "step 5: step_not_finite (what [gradient norm], consecutive 1" in text
    assert not {path.name for path in output.iterdir()} & {"DONE", "REQUEUE"}
    kept = {path.name for path in (output / "checkpoints").glob("step-*")}
    assert kept == {"step-00000003", "step-00000004"}  # 4 was of no use, and 3 is


def _check_fp16(output: Path, code: int, text: str) -> None:
    """A run in fp16 leaves out steps that overflow, lowers the scale, trains and updates."""
    assert code == 0, text
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    scales = [line["loss_scale"] for line in lines if line["type"] == "train"]
    overflowed = [line["step"] for line in lines if line.get("event") == "update_overflowed"]
    assert overflowed == [1]
    assert scales == [2.0**18] + [2.0**17] * 4
    assert [line["step"] for line in lines if line["type"] == "update"] == [2, 4]
    assert (output / "DONE").exists()


def _check_lowest_scale(output: Path, code: int, text: str) -> None:
    """A run in fp16 whose scale cannot be lowered ends with an error, and not DeepSpeed's."""
    assert code == 2
    assert text.splitlines()[-1] == (
        "training: expected gradients that float16 can hold, found an overflow in step 1 at the "
        "lowest loss scale, 1.09951e+12 (deepspeed.fp16.min_loss_scale): gradients are not "
        "finite or too large; precision: bf16, a lower learning rate or clipping may help; "
        "no checkpoint was written"
    )
    assert "Traceback" not in text
    assert not {path.name for path in output.iterdir()} & {"DONE", "REQUEUE"}


def _check_refusals(folder: Path) -> None:
    """Try what must be refused in one line, with exit code 2 and nothing written."""
    lock = RunLock(folder / "out", heartbeat_s=3600)
    lock.acquire()  # as another process that trains there
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    elsewhere = "output=elsewhere"
    cases = {
        "other run": ["seed=18"],
        "unknown": [elsewhere, "deepspeed.gradient_cliping=1.0"],
        "misspelt": [elsewhere, "deepspeed.optimizer.params.lrr=1"],
        "removed": [elsewhere, "deepspeed.sparse_gradients=true"],
        "value": [elsewhere, "deepspeed.zero_optimization.overlap_comm=maybe"],
        "no folder": ["output=run.yaml"],
        "locked": [],
    }

    worker = "tests.integration.workers.refusals"
    all_cases = json.dumps({**cases, "diverged": DIVERGES, "fp16": FP16, "too high": TOO_HIGH})
    job = run_job(alone(worker, "../found.json", "run.yaml", all_cases), folder)

    assert job.code == 0, job.text
    found = json.loads((folder / "../found.json").read_text())
    _check_divergence(folder.parent / "diverged", *found.pop("diverged"))
    _check_fp16(folder.parent / "fp16", *found.pop("fp16"))
    _check_lowest_scale(folder.parent / "too_high", *found.pop("too high"))
    assert {name: code for name, (code, _) in found.items()} == dict.fromkeys(cases, 2)
    messages = {name: message.rstrip("\n") for name, (_, message) in found.items()}
    assert all("\n" not in message for message in messages.values())
    assert messages["other run"] == (
        "out/checkpoints/step-00000002/megadga.json: belongs to another run: "
        "seed: expected 17, found 18"
    )
    for name, key in (
        ("unknown", "gradient_cliping"),
        ("misspelt", "optimizer.params.lrr"),
        ("removed", "sparse_gradients"),
    ):
        assert messages[name].startswith(f"override 2: deepspeed.{key}: expected")
    assert "deepspeed: expected settings that DeepSpeed accepts, found" in messages["value"]
    assert "output: expected a folder that can be written, found" in messages["no folder"]
    assert messages["locked"].startswith(
        f"out: expected no other process that trains here, found process {os.getpid()} on"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    lock.release()
