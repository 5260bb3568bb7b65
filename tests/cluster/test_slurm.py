"""Runs under SLURM: the time limit, cancelling, and the death of a rank."""

from pathlib import Path

import pytest

from tests.cluster.faults import ENDLESS, START_S, assert_nothing_left, kill_a_rank
from tests.cluster.packages import SLURM, why_not
from tests.cluster.runs import Trial, write_trial
from tests.cluster.slurm import Slurm, slurm, wait_until
from tests.support.shards import write_sets

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1500)]


@pytest.fixture
def cluster():
    if reason := why_not(SLURM):
        pytest.skip(reason)
    with slurm(2) as running:
        yield running


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return write_trial(tmp_path / "run", write_sets(tmp_path / "shards", num_domains=3))


def submit_endless(cluster: Slurm, trial: Trial, *options: str) -> str:
    """Submit a run that its time limit alone ends, and wait until it trains."""
    job = cluster.submit(trial.over_two_hosts("slurm", *options), trial)
    wait_until(lambda: trial.step() >= 3, START_S, lambda: trial.logs() + cluster.logs())
    return job


def test_at_its_time_limit_a_run_saves_is_requeued_and_ends_as_if_undisturbed(
    cluster: Slurm, trial: Trial, tmp_path: Path
) -> None:
    # How far it gets in its first minutes depends on the machine, so how far it is to go is only
    # said while it waits in the queue.
    config = trial.folder / "run.yaml"
    short = config.read_text()
    config.write_text(short.replace("steps: 20", "steps: 1000000"))
    job = submit_endless(cluster, trial, "--time=00:03:00", "--time-to-save=60")
    wait_until(lambda: trial.markers() == {"REQUEUE"}, 240, trial.logs)
    saved = trial.step()
    steps = saved + 10
    config.write_text(short.replace("steps: 20", f"steps: {steps}"))
    cluster.start_again(job, START_S)
    cluster.wait_for_end(job, START_S)
    assert trial.markers() == {"DONE"}, trial.logs()
    assert f"continues after step {saved}" in trial.logs()

    undisturbed = write_trial(tmp_path / "undisturbed", tmp_path / "shards", steps=steps)
    again = cluster.submit(undisturbed.over_two_hosts("slurm"), undisturbed)
    cluster.wait_for_end(again, 600)
    assert undisturbed.markers() == {"DONE"}, undisturbed.logs()
    assert trial.metrics() == undisturbed.metrics()


def test_a_cancelled_run_saves_and_leaves_nothing(cluster: Slurm, trial: Trial) -> None:
    job = submit_endless(cluster, trial, ENDLESS, "--time=01:00:00")
    cluster.cancel(job)
    cluster.wait_for_end(job, 120)
    assert_nothing_left(cluster.hosts, within_s=10)
    assert trial.markers() == {"REQUEUE"}, trial.logs()
    assert (trial.output / "checkpoints" / f"step-{trial.step():08d}").is_dir()


def test_a_killed_rank_ends_the_job_everywhere(cluster: Slurm, trial: Trial) -> None:
    job = submit_endless(cluster, trial, ENDLESS, "--time=01:00:00")
    kill_a_rank(cluster.hosts[1])
    cluster.wait_for_end(job, 60)
    assert_nothing_left(cluster.hosts, within_s=10)
    assert trial.markers() == set()
    assert "h2" in trial.logs().splitlines()[-1], trial.logs()
