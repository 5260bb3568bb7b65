"""What becomes of runs on two hosts when a rank, a host or a link is lost."""

import re
import time
from pathlib import Path

import pytest

from tests.cluster.faults import (
    DEADLINE_S,
    assert_nothing_left,
    endless,
    kill_a_rank,
    ranks_on,
    resume,
)
from tests.cluster.hosts import Host
from tests.cluster.runs import write_trial
from tests.support.shards import write_sets

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
SSH_LAUNCHERS = ("ssh", "mpi", "torchrun")
NAMED = re.compile(r"rank [0-3] on h[12]: |lost hosts: h2$")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


@pytest.mark.parametrize("launcher", SSH_LAUNCHERS)
def test_a_killed_rank_ends_the_run_everywhere_and_it_resumes(
    pair: tuple[Host, Host], shards: Path, tmp_path: Path, launcher: str
) -> None:
    trial = write_trial(tmp_path / "run", shards)
    with endless(trial, launcher, pair[0]) as job:
        kill_a_rank(pair[1])
        done = job.wait(DEADLINE_S)
        assert_nothing_left(pair, within_s=10)

    assert done.code not in (0, 75)
    assert NAMED.search(done.text.splitlines()[-1]), done.text[-3000:]
    assert trial.markers() == set()
    assert "continues after step" in resume(trial, launcher, pair[0])


@pytest.mark.parametrize("launcher", SSH_LAUNCHERS)
@pytest.mark.parametrize("loss", ["host", "link"])
def test_a_lost_host_ends_the_run_on_the_others(
    pair: tuple[Host, Host], shards: Path, tmp_path: Path, launcher: str, loss: str
) -> None:
    trial = write_trial(tmp_path / "run", shards)
    with endless(trial, launcher, pair[0]) as job:
        if loss == "host":
            pair[1].kill()
        else:
            pair[1].cut()
        lost = time.monotonic()
        done = job.wait(DEADLINE_S)
        # On the host behind a link that was cut, ranks find out by themselves.
        assert_nothing_left(pair, within_s=DEADLINE_S - (time.monotonic() - lost))

    assert done.code not in (0, 75)
    assert NAMED.search(done.text.splitlines()[-1]), done.text[-3000:]
    if loss == "link":
        pair[1].mend()
        pair[0].wait_for("h2", within_s=60)
        assert "continues after step" in resume(trial, launcher, pair[0])


def test_torchrun_replaces_a_killed_rank(
    pair: tuple[Host, Host], shards: Path, tmp_path: Path
) -> None:
    trial = write_trial(tmp_path / "run", shards)
    with endless(trial, "torchrun", pair[0], "--max-restarts=1") as job:
        old = {process.pid for process in ranks_on(pair[1])}
        step = trial.step()
        kill_a_rank(pair[1])
        job.wait_until(lambda: trial.step() > step + 30, 300, "it trained again")
        assert "continues after step" in job.text
        assert old.isdisjoint(process.pid for process in ranks_on(pair[1]))
        job.terminate()
        assert job.wait(150).code == 75
        assert_nothing_left(pair, within_s=10)
