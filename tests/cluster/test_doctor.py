"""``megadga doctor`` on real hosts, each of them unfit in its own way."""

import sys
import tempfile
import time
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.environment import shell_environment, write_hostfile
from tests.cluster.hosts import Host
from tests.cluster.packages import SLURM, why_not
from tests.cluster.slurm import slurm
from tests.support.jobs import Finished
from tests.support.ranks import REPOSITORY, copy_operators
from tests.support.runs import write_run

DOCTOR = (sys.executable, "-m", "megadga.cli", "doctor")
Pair = tuple[Host, Host]


def doctor(
    pair: Pair, folder: Path, *arguments: str, slots: int = 1, **variables: str
) -> Finished:
    """Have the first host look at both, with operators that no other test's ranks load."""
    hostfile = write_hostfile(folder / "hostfile", pair, slots=slots)
    command = [*DOCTOR, "--hostfile", str(hostfile), *arguments]
    with tempfile.TemporaryDirectory() as operators:
        copy_operators(Path(operators) / "own")
        environment = shell_environment(TORCH_EXTENSIONS_DIR=f"{operators}/own", **variables)
        return pair[0].run(*command, env=environment, cwd=folder, timeout_s=200)


def failures(done: Finished) -> list[str]:
    """What failed, of a diagnosis that found something."""
    assert done.code == 1, done.text
    lines = [line.partition("  ") for line in done.text.splitlines()]
    return [text for kind, _, text in lines if kind == "FAILED"]


def hide(host: Host, path: Path, content: Path) -> None:
    """Have one host see other content at a path."""
    host.sh(f"mount --bind '{content}' '{path}'")


def test_two_fit_hosts_reduce_together(pair: Pair, tmp_path: Path) -> None:
    done = doctor(pair, tmp_path)
    assert done.code == 0, done.text
    first, *_, last = done.text.splitlines()
    assert first == "2 hosts, 2 ranks, by ssh"
    assert last.startswith("ok  all-reduce of 2 ranks: ")
    assert [path.name for path in tmp_path.iterdir()] == ["hostfile"]  # it leaves nothing


def test_a_host_that_is_down_is_named(pair: Pair, tmp_path: Path) -> None:
    pair[1].cut()
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith("h2: expected to get in by ssh, found no way: ssh: connect to host")


@pytest.mark.thorough
def test_a_host_without_sshd_is_named(pair: Pair, tmp_path: Path) -> None:
    pair[1].sh("kill $(cat /run/sshd.pid)")
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith("h2: expected to get in by ssh, found no way: ")
    assert "Connection refused" in failure


@pytest.mark.thorough
def test_a_host_that_does_not_let_one_in_is_named(pair: Pair, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.touch()
    hide(pair[1], Path("/etc/ssh/key.pub"), nothing)
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith("h2: expected to get in by ssh, found no way: ")
    assert "Permission denied" in failure


@pytest.mark.thorough
def test_a_host_without_the_interpreter_is_named(pair: Pair, tmp_path: Path) -> None:
    pair[1].sh(f"mount -t tmpfs tmpfs '{Path(sys.executable).parent.resolve()}'")
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith(f"h2: expected megadga under {sys.executable}, found exit code 127")


@pytest.mark.thorough
def test_an_interpreter_without_megadga_is_named(pair: Pair, tmp_path: Path) -> None:
    pair[1].sh(f"mount -t tmpfs tmpfs '{REPOSITORY / 'megadga'}'")
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith(f"h2: expected megadga under {sys.executable}, found exit code 1")
    assert "No module named" in failure


@pytest.mark.thorough
def test_other_versions_are_named(pair: Pair, tmp_path: Path) -> None:
    (metadata,) = [f for f in distribution("numpy").files or () if f.name == "METADATA"]
    path = Path(str(metadata.locate()))
    version = f"Version: {np.__version__}"
    other = tmp_path / "METADATA"
    other.write_text(path.read_text(encoding="utf-8").replace(version, "Version: 1.2.3", 1))
    hide(pair[1], path.resolve(), other)
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith(f"h2: expected numpy {np.__version__} as here, found 1.2.3;")


@pytest.mark.thorough
def test_other_code_is_named(pair: Pair, tmp_path: Path) -> None:
    path = REPOSITORY / "megadga" / "arrays.py"
    other = tmp_path / "arrays.py"
    other.write_text(f"{path.read_text()}\n# changed\n")
    hide(pair[1], path, other)
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith("h2: expected megadga's code ")


@pytest.mark.thorough
def test_a_port_in_use_is_named(pair: Pair, tmp_path: Path) -> None:
    listen = "import socket, time; s = socket.create_server(('', 29555)); time.sleep(100)"
    with pair[0].start(sys.executable, "-c", listen) as job:
        job.wait_until(lambda: _listens(pair[0], 29555), 20, "it listened")
        (failure,) = failures(doctor(pair, tmp_path, MASTER_PORT="29555"))
    assert failure.startswith("h1: expected port 29555 to be free, found that it is in use; ")


def _listens(host: Host, port: int) -> bool:
    return f":{port}" in host.sh("ss --listening --tcp --numeric")


@pytest.mark.thorough
def test_too_many_slots_are_named_on_every_host(pair: Pair, tmp_path: Path) -> None:
    found = failures(doctor(pair, tmp_path, slots=1000))
    assert [line.partition(" for ")[0] for line in found] == [
        "h1: expected 1000 cores",
        "h2: expected 1000 cores",
    ]


@pytest.mark.thorough
def test_a_folder_that_is_not_shared_is_named(pair: Pair, tmp_path: Path) -> None:
    config = write_run(tmp_path)
    output = tmp_path / "out"
    output.mkdir()
    pair[1].sh(f"mount -t tmpfs tmpfs '{output}'")
    (failure,) = failures(doctor(pair, tmp_path, str(config)))
    assert failure.startswith(f"h2: expected {output} to be shared, found that h1 does not see ")


@pytest.mark.thorough
def test_a_folder_that_cannot_be_written_is_named(pair: Pair, tmp_path: Path) -> None:
    config = write_run(tmp_path)
    output = tmp_path / "out"
    output.mkdir()
    pair[1].sh(f"mount -t tmpfs -o ro tmpfs '{output}'")
    (failure,) = failures(doctor(pair, tmp_path, str(config)))
    assert failure.startswith(f"h2: expected to write in {output}, found: read-only file system")


@pytest.mark.thorough
def test_a_first_host_that_others_take_for_themselves_is_named(pair: Pair, tmp_path: Path) -> None:
    table = tmp_path / "hosts"
    table.write_text("127.0.0.1 localhost\n127.0.1.1 h1\n192.0.2.2 h2\n")
    hide(pair[1], Path("/etc/hosts"), table)
    (failure,) = failures(doctor(pair, tmp_path))
    assert failure.startswith("h2: expected h1 to be another machine, found 127.0.1.1; ")


@pytest.mark.thorough
def test_an_interface_that_leads_nowhere_fails_within_the_deadline(
    pair: Pair, tmp_path: Path
) -> None:
    started = time.monotonic()
    done = doctor(pair, tmp_path, "--deadline", "10", GLOO_SOCKET_IFNAME="lo")
    assert time.monotonic() - started < 90  # twice the deadline, and torch is imported
    assert all("expected an all-reduce within 10 s, found: rank " in it for it in failures(done))


@pytest.mark.thorough
def test_hosts_of_a_slurm_job_are_asked_by_srun(tmp_path: Path) -> None:
    if reason := why_not(SLURM):
        pytest.skip(reason)
    command = ["salloc", "--nodes=2", "--ntasks-per-node=1", *DOCTOR]
    with slurm(2) as cluster:
        done = cluster.login.run(*command, env=shell_environment(), cwd=tmp_path, timeout_s=200)
    assert done.code == 0, done.text
    assert "2 hosts, 2 ranks, by srun" in done.text
    assert "ok  all-reduce of 2 ranks: " in done.text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "expected a readable hostfile, found: No such file or directory"),
        ("h1 slots=2\nh2 slots=2\nh1 slots=2\n", "expected every host once, found 'h1' again"),
    ],
)
def test_a_hostfile_that_is_missing_or_names_a_host_twice_is_refused(
    pair: Pair, tmp_path: Path, text: str | None, complaint: str
) -> None:
    path = tmp_path / "listed"
    if text is not None:
        path.write_text(text)
    command = [*DOCTOR, "--hostfile", str(path)]
    done = pair[0].run(*command, env=shell_environment(), cwd=tmp_path)
    assert done.code == 2
    assert complaint in done.text
