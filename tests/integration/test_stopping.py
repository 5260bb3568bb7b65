"""A run under `launch/local` is stopped and started again, as by somebody with other plans."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.support.jobs import Finished, on_ranks, run_job
from tests.support.ranks import REPOSITORY, own_session, rank_environment
from tests.support.runs import write_run
from tests.support.shards import write_sets

RUN = """\
seed: 17
output: out put/$run
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing:
  type: dga
  preset: paper
  interval: 6
  step_size: 0.02
  ema: 0.5
  probe: {type: sharded, sequences_per_domain: 2, specific_sequences: 3}
training: {steps: 24, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 12, sequences: 3}
checkpoint: {interval: 1000, keep_last: 2}
"""
LAUNCH = [sys.executable, str(REPOSITORY / "launch/local")]
RUN_OF_COMMAND = ["my run.yaml", "--set", "seed=18"]
COMMAND = [*LAUNCH, "--accelerators-per-node", "2", *RUN_OF_COMMAND]
OUTPUT = Path("out put/$run")
TIMES = ("tokens_per_s", "seconds", "probe_s", "observed_overhead")
KNOWN = re.compile(
    rf"{re.escape(str(OUTPUT))}: 24 steps, 2 ranks on cpu, continues after step \d+"
    r"|step \d+/24  loss [\d.]+  [\d,]+ tokens/s  d\d [\d., d]+(  \d\d:\d\d left)?"
    r"|step \d+: (validation target [\d.]+, general [\d.]+|checkpoint of .* written in .*)"
)
"""Lines of the run and of nothing else: no library has anything to say of it."""


def new_folder(folder: Path, shards: Path) -> Path:
    folder.mkdir()
    (folder / "shards").symlink_to(shards)
    write_run(folder, RUN).rename(folder / "my run.yaml")
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    """What was logged of training: a run that stops has a checkpoint more."""
    lines = (folder / OUTPUT / "metrics.jsonl").read_text().splitlines()
    found = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return [record for record in found if record["type"] != "checkpoint"]


def wait_for_steps(folder: Path, step: int) -> None:
    until = time.monotonic() + 240
    metrics = folder / OUTPUT / "metrics.jsonl"
    while not metrics.exists() or f'"step": {step},' not in metrics.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)


def run_and_signal(folder: Path, *, after_step: int) -> tuple[Finished, list[psutil.Process]]:
    """Send SIGTERM to the launcher after a step; return how it ended, and all that it started."""
    with own_session(
        COMMAND,
        cwd=folder,
        env=rank_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as launcher:
        wait_for_steps(folder, after_step)
        started = psutil.Process(launcher.pid).children(recursive=True)
        os.kill(launcher.pid, signal.SIGTERM)
        text, _ = launcher.communicate(timeout=120)
    return Finished(launcher.returncode, text.decode()), started


def unknown_lines(text: str) -> list[str]:
    """What is written to either stream but by megadga itself, up to the summary at the end."""
    before, separator, _ = text.partition(f"\n\n{OUTPUT}: step ")
    assert separator
    return [line for line in before.splitlines() if not KNOWN.fullmatch(line)]


def summary(text: str) -> list[str]:
    """Of the lines at the end of a run, those about losses and weights."""
    _, _, told = text.rpartition(f"\n\n{OUTPUT}: step ")
    return told[: told.index("\nbest step")].splitlines()


def test_a_stopped_run_saves_ends_and_goes_on_as_if_nothing_had_happened(tmp_path):
    shards = write_sets(tmp_path / "shards", num_domains=3)
    whole, parts = (new_folder(tmp_path / name, shards) for name in ("whole", "two $parts"))

    undisturbed = run_job(on_ranks("megadga.cli", "train", *RUN_OF_COMMAND), whole)
    stopped, processes = run_and_signal(parts, after_step=3)
    markers = {path.name for path in (parts / OUTPUT).iterdir()} & {"DONE", "REQUEUE"}
    last = records(parts)[-1]["step"]

    assert undisturbed.code == 0, undisturbed.text
    assert stopped.code == 75, stopped.text
    assert "asked to stop" in stopped.text
    assert f"{OUTPUT}: saved at step {last}; the same command continues\n" in stopped.text
    assert markers == {"REQUEUE"}
    assert 3 <= last < 24
    assert (parts / OUTPUT / f"checkpoints/step-{last:08d}").is_dir()
    assert len(processes) >= 2
    assert [process for process in processes if process.is_running()] == []

    resumed = run_job(COMMAND, parts)

    assert resumed.code == 0, resumed.text
    assert unknown_lines(resumed.text) == []
    assert f"{OUTPUT}: step 24 of 24, finished\n" in resumed.text
    assert f"{OUTPUT}: 24 steps, 2 ranks on cpu, continues after step {last}\n" in resumed.text
    assert summary(resumed.text) == summary(undisturbed.text)
    found = records(parts)
    found.remove(
        {"type": "event", "step": last, "event": "resume", "checkpoint": f"step-{last:08d}"}
    )
    assert found == records(whole)
    assert (parts / OUTPUT / "DONE").exists()
    assert not (parts / OUTPUT / "REQUEUE").exists()

    again = run_job(COMMAND, parts, timeout_s=30)

    assert again == Finished(0, f"{OUTPUT}: finished after step 24; nothing is left to train\n")
