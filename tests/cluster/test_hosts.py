"""The hosts are what the tests of clusters take them for, and go without a trace."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster.hosts import NETNS_ETC, Host, hosts
from tests.cluster.packages import HOSTS, SLURM, why_not
from tests.cluster.processes import all_processes
from tests.cluster.slurm import slurm


@pytest.fixture(autouse=True)
def possible() -> None:
    if reason := why_not(HOSTS):
        pytest.skip(reason)


def test_a_host_reaches_the_other_by_name_and_shares_folders_but_no_memory(
    pair: tuple[Host, Host], tmp_path: Path
) -> None:
    one, other = pair
    assert one.sh("ssh h2 hostname") == "h2\n"
    assert one.sh("echo $TMPDIR; ssh h2 'echo $TMPDIR'") == "/run/tmp\n/run/tmp\n"
    one.sh(f"touch {tmp_path}/shared /dev/shm/own /run/own")
    assert other.sh(f"ls {tmp_path}; ls /dev/shm; ls /run") == "shared\nsshd\nsshd.pid\ntmp\n"


def test_a_host_that_was_killed_answers_no_more() -> None:
    with hosts(2) as (one, other):
        other.kill()
        done = one.run("ssh", "-o", "ConnectTimeout=2", "h2", "true")
        assert (done.code, other.processes()) == (255, [])


def test_a_link_that_was_cut_can_be_mended(pair: tuple[Host, Host]) -> None:
    one, other = pair
    other.cut()
    assert one.run("ssh", "-o", "ConnectTimeout=2", "h2", "true").code == 255
    other.mend()
    one.wait_for("h2", within_s=60)


def test_nothing_is_left_of_hosts_even_after_a_failure() -> None:
    names: set[str] = set()
    with pytest.raises(KeyboardInterrupt), hosts(2) as two:  # noqa: PT012
        names |= {host.namespace for host in two}
        with two[0].start("sleep", "1000"):
            raise KeyboardInterrupt
    assert names.isdisjoint(subprocess.check_output(["ip", "netns"], text=True).split())
    assert names.isdisjoint(path.name for path in NETNS_ETC.iterdir())
    assert not [p for p in all_processes() if any(name in p.command for name in names)]


def test_slurm_runs_a_task_on_each_host() -> None:
    if reason := why_not(SLURM):
        pytest.skip(reason)
    with slurm(2) as cluster:
        text = cluster.login.sh("srun --nodes=2 --ntasks-per-node=1 --gres=gpu:2 hostname")
    assert sorted(text.split()) == ["h1", "h2"]
