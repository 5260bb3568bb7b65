"""Runs on two hosts that are asked to stop: they save, and nothing of them is left."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.faults import assert_nothing_left, endless
from tests.cluster.hosts import Host
from tests.cluster.jobs import Job
from tests.cluster.runs import write_trial
from tests.support.shards import write_sets

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]


@pytest.mark.parametrize("ask", [Job.terminate, Job.interrupt], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("launcher", ["ssh", "mpi", "torchrun"])
def test_a_launcher_that_is_asked_to_stop_has_the_run_saved(
    pair: tuple[Host, Host], tmp_path: Path, launcher: str, ask: Callable[[Job], None]
) -> None:
    shards = write_sets(tmp_path / "shards", num_domains=3)
    trial = write_trial(tmp_path / "run", shards)
    with endless(trial, launcher, pair[0]) as job:
        ask(job)
        done = job.wait(150)
        assert_nothing_left(pair, within_s=10)

    assert done.code == 75, done.text[-3000:]
    assert trial.markers() == {"REQUEUE"}
    assert (trial.output / "checkpoints" / f"step-{trial.step():08d}").is_dir()
