"""Runs that are killed while they resume on other ranks and another ZeRO stage."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from megadga.run_folder.checkpoints import checkpoint_path, find_damage, load_header
from tests.faults.comparing import assert_equal_runs
from tests.faults.runs import FaultyRun, write_faulty_run
from tests.support.ranks import copy_operators
from tests.support.shards import write_sets

STOP, STEPS = 10, 20
ELSEWHERE = (
    "--accelerators-per-node=1",
    "--set=deepspeed.zero_optimization.stage=3",
    "--set=training.micro_batch_size=4",
    f"--set=training.steps={STEPS}",
)
DELAYS_S = (0.0, 0.01, 0.1)
"""After the run has said that it divides the states anew."""

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1800)]


def kill_while_dividing(run: FaultyRun, after_s: float) -> None:
    """Start a run on the other layout, and kill it while it reads the states."""
    run.log.unlink(missing_ok=True)
    with run.launched(*ELSEWHERE) as job:
        ends = time.monotonic() + 600.0
        while "dividing the checkpoint" not in run.end_of_log():
            assert time.monotonic() < ends, run.end_of_log()
            assert job.launcher.poll() is None, run.end_of_log()
            job.look()
            time.sleep(0.002)
        time.sleep(after_s)
        job.look()
        for process in job.alive():
            process.send_signal(signal.SIGKILL)
        job.wait(60.0)


def test_a_run_killed_while_states_are_divided_anew_loses_nothing(tmp_path: Path) -> None:
    shards = write_sets(tmp_path / "shards", num_domains=4)
    operators = copy_operators(tmp_path / "compiled")
    killed = write_faulty_run(tmp_path / "killed", shards, operators, stage=2)
    assert killed.finish(f"--set=training.steps={STOP}") == 0, killed.end_of_log()
    undisturbed = FaultyRun(tmp_path / "undisturbed", operators)
    shutil.copytree(killed.folder, undisturbed.folder, symlinks=True)
    assert undisturbed.finish(*ELSEWHERE) == 0, undisturbed.end_of_log()

    for delay_s in DELAYS_S:
        kill_while_dividing(killed, delay_s)
        checkpoint = checkpoint_path(killed.checkpoints, STOP)
        assert find_damage(checkpoint, load_header(checkpoint)) is None
    assert killed.finish(*ELSEWHERE) == 0, killed.end_of_log()

    assert_equal_runs(killed, undisturbed)
