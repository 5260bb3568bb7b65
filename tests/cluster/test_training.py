"""Two ranks on each of two hosts train what four ranks of one machine train, however launched."""

from pathlib import Path

import pytest

from tests.cluster.hosts import Host
from tests.cluster.packages import PDSH, SLURM, why_not
from tests.cluster.runs import Trial, write_trial
from tests.cluster.slurm import slurm
from tests.support.jobs import on_ranks, run_job
from tests.support.shards import write_sets

pytestmark = pytest.mark.timeout(900)
TIMEOUT_S = 400.0
EPSILON = 2.0**-23  # of float32, in which losses are averaged
NUM_SEQUENCES = 8
# Sums in another order differ in their last bits, which training then amplifies: by a few orders
# of magnitude in 20 steps. Other sequences would differ in the first digits.
AMPLIFIED = 1e-4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


@pytest.fixture(scope="module")
def local(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """What four ranks of one machine make of the run."""
    if reason := why_not(PDSH):
        pytest.skip(reason)
    trial = write_trial(tmp_path_factory.mktemp("local") / "run", shards)
    train = on_ranks("megadga.cli", "train", "run.yaml", ranks=4)
    done = run_job(train, trial.folder, timeout_s=TIMEOUT_S)
    assert done.code == 0, done.text
    return trial


@pytest.mark.thorough
@pytest.mark.parametrize("launcher", ["ssh", "mpi", "torchrun"])
def test_two_hosts_train_on_the_sequences_of_one(
    pair: tuple[Host, Host], shards: Path, local: Trial, tmp_path: Path, launcher: str
) -> None:
    trial = write_trial(tmp_path / "run", shards)
    command = trial.over_two_hosts(launcher)
    done = pair[0].run(*command, env=trial.environment(), cwd=trial.folder, timeout_s=TIMEOUT_S)
    assert done.code == 0, done.text[-6000:]
    assert_same_training(trial, local)


def test_a_slurm_job_trains_on_the_sequences_of_one_host(
    shards: Path, local: Trial, tmp_path: Path
) -> None:
    if reason := why_not(SLURM):
        pytest.skip(reason)
    trial = write_trial(tmp_path / "run", shards)
    command = trial.over_two_hosts("slurm", "--time=00:10:00")
    with slurm(2) as cluster:
        text = cluster.submit(command, trial)
        cluster.wait_for_end(text, TIMEOUT_S)
    assert trial.markers() == {"DONE"}, trial.logs()
    assert_same_training(trial, local)


def assert_same_training(found: Trial, expected: Trial) -> None:
    assert found.markers() == {"DONE"}
    ours, theirs = found.metrics("train"), expected.metrics("train")
    names = "sequences_by_domain"
    assert [step[names] for step in ours] == [step[names] for step in theirs]
    # Before the first step the model is the same to the last bit.
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=NUM_SEQUENCES * EPSILON)
    losses = [step["loss"] for step in theirs]
    assert [step["loss"] for step in ours] == pytest.approx(losses, rel=AMPLIFIED)
    assert len(losses) == 20
