"""Runs under SLURM: the time limit, cancelling, and the loss of a rank, a host or a link."""

from pathlib import Path

import pytest

from tests.cluster.faults import (
    DEADLINE_S,
    ENDLESS,
    START_S,
    assert_nothing_left,
    kill_a_rank,
    ranks_on,
)
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


def submit_endless(cluster: Slurm, trial: Trial, *options: str, after_step: int = 3) -> str:
    """Submit a run that its time limit alone ends, and wait until it trains."""
    job = cluster.submit(trial.over_two_hosts("slurm", *options), trial)
    logs = lambda: trial.logs() + cluster.logs()  # noqa: E731
    wait_until(lambda: trial.step() >= after_step, START_S, logs)
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


def test_a_killed_rank_ends_the_job_everywhere_and_it_resumes(
    cluster: Slurm, trial: Trial
) -> None:
    job = submit_endless(cluster, trial, ENDLESS, "--time=01:00:00", after_step=12)
    kill_a_rank(cluster.hosts[1])
    cluster.wait_for_end(job, DEADLINE_S)
    assert_nothing_left(cluster.hosts, within_s=10)
    assert trial.markers() == set()
    last = trial.logs().splitlines()[-1]
    assert "the run ended with code" in last, trial.logs()
    assert ": rank " in last, trial.logs()

    steps = trial.step() + 3
    command = trial.over_two_hosts("slurm", f"--set=training.steps={steps}")
    cluster.wait_for_end(cluster.submit(command, trial), START_S)
    assert "continues after step" in trial.logs()
    assert trial.markers() == {"DONE"}, trial.logs()
    assert trial.step() == steps


@pytest.mark.parametrize("loss", ["host", "link"])
def test_a_job_that_loses_a_host_goes_on_by_itself_on_another(trial: Trial, loss: str) -> None:
    if reason := why_not(SLURM):
        pytest.skip(reason)
    with slurm(3) as cluster:
        job = submit_endless(cluster, trial, ENDLESS, "--time=01:00:00", after_step=12)
        lost = cluster.hosts[1]
        assert [len(ranks_on(host)) for host in cluster.hosts] == [2, 2, 0]
        step = trial.step()
        if loss == "host":
            lost.kill()
        else:
            lost.cut()
        # On the host behind a link that was cut, ranks find out by themselves.
        assert_nothing_left(cluster.hosts, within_s=DEADLINE_S)
        assert "h2" in trial.logs().splitlines()[-1], trial.logs()
        cluster.start_again(job, START_S)
        wait_until(lambda: trial.step() > step + 12, START_S, trial.logs)
        assert "continues after step" in trial.logs()
        assert [len(ranks_on(host)) for host in cluster.hosts] == [2, 0, 2]
        cluster.cancel(job)
        cluster.wait_for_end(job, 120)
        assert trial.markers() == {"REQUEUE"}, trial.logs()
