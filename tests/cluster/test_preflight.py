"""Launchers refuse hosts that are not fit, by name, before any rank starts."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.environment import write_hostfile
from tests.cluster.hosts import Host
from tests.cluster.packages import SLURM, why_not
from tests.cluster.runs import Trial, write_trial
from tests.cluster.slurm import slurm
from tests.support.jobs import Finished
from tests.support.ranks import REPOSITORY
from tests.support.shards import write_sets

pytestmark = pytest.mark.thorough
SSH_LAUNCHERS = pytest.mark.parametrize("launcher", ["ssh", "mpi", "torchrun"])
Pair = tuple[Host, Host]

# Launchers choose a port from these.
LISTEN = """\
import resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
held = [socket.create_server(("", port)) for port in range(20_000, 32_768)]
open("listening", "w")
time.sleep(100)
"""


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return write_trial(tmp_path / "run", write_sets(tmp_path / "shards", num_domains=2))


def launch(pair: Pair, trial: Trial, launcher: str) -> Finished:
    command = trial.over_two_hosts(launcher)
    return pair[0].run(*command, env=trial.environment(), cwd=trial.folder)


def assert_refused(done: Finished, trial: Trial, *beginnings: str) -> None:
    """The launcher has said a line per host, and nothing of a run has been made."""
    assert done.code == 2
    lines = done.text.splitlines()
    assert len(lines) == len(beginnings), done.text
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(beginning)
    assert not trial.output.exists()


def take_down(host: Host) -> None:
    host.cut()


def end_sshd(host: Host) -> None:
    host.sh("kill $(cat /run/sshd.pid)")


def hide_interpreter(host: Host) -> None:
    host.sh(f"mount -t tmpfs tmpfs '{Path(sys.executable).parent.resolve()}'")


def change_code(host: Host) -> None:
    path = REPOSITORY / "megadga" / "arrays.py"
    host.sh(
        f"(cat '{path}'; echo '# changed') > /run/arrays.py; mount --bind /run/arrays.py '{path}'"
    )


@SSH_LAUNCHERS
@pytest.mark.parametrize(
    ("damage", "beginning"),
    [
        (take_down, "h2: expected to get in by ssh, found no way: "),
        (end_sshd, "h2: expected to get in by ssh, found no way: "),
        (hide_interpreter, f"h2: expected megadga under {sys.executable}, found exit code 127"),
        (change_code, "h2: expected megadga's code "),
    ],
    ids=["down", "no sshd", "no interpreter", "other code"],
)
def test_a_host_that_is_not_fit_is_named(
    pair: Pair, trial: Trial, launcher: str, damage: Callable[[Host], None], beginning: str
) -> None:
    damage(pair[1])
    assert_refused(launch(pair, trial, launcher), trial, beginning)


@SSH_LAUNCHERS
def test_a_port_in_use_is_named(pair: Pair, trial: Trial, launcher: str) -> None:
    with pair[0].start(sys.executable, "-c", LISTEN, cwd=trial.folder) as job:
        job.wait_until((trial.folder / "listening").exists, 30, "it listened")
        assert_refused(launch(pair, trial, launcher), trial, "h1: expected port ")


@SSH_LAUNCHERS
def test_more_slots_than_devices_are_named(pair: Pair, trial: Trial, launcher: str) -> None:
    write_hostfile(trial.folder / "hostfile", pair, slots=1000)
    config = trial.folder / "run.yaml"
    config.write_text(
        config.read_text().replace("global_batch_size: 8", "global_batch_size: 4000")
    )
    command = [word for word in trial.over_two_hosts(launcher) if "per-node" not in word]
    done = pair[0].run(*command, env=trial.environment(), cwd=trial.folder)
    assert_refused(done, trial, "h1: expected 1000 cores", "h2: expected 1000 cores")


@SSH_LAUNCHERS
def test_a_hostfile_that_is_missing_or_names_a_host_twice_is_named(
    pair: Pair, trial: Trial, launcher: str
) -> None:
    hostfile = write_hostfile(trial.folder / "hostfile", ["h1", "h2", "h2"])
    assert_refused(launch(pair, trial, launcher), trial, "hostfile:3: expected every host once")
    hostfile.unlink()
    assert_refused(launch(pair, trial, launcher), trial, "hostfile: expected a readable hostfile")


def test_a_slurm_job_looks_at_its_hosts_before_its_ranks_start(trial: Trial) -> None:
    if reason := why_not(SLURM):
        pytest.skip(reason)
    with slurm(2) as cluster:
        change_code(cluster.hosts[1])
        job = cluster.submit(trial.over_two_hosts("slurm"), trial)
        cluster.wait_for_end(job, 120)
    failed = [line for line in trial.logs().splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1, trial.logs()
    assert failed[0].startswith("FAILED  h2: expected megadga's code ")
    assert {path.suffix for path in trial.output.iterdir()} == {".log"}
