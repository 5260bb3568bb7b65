"""How hosts are found and reached."""

import subprocess
import sys
from pathlib import Path

import pytest

from megadga.errors import ConfigError
from megadga.launch.doctor.connection import find_hosts, python_script, reach_command
from megadga.launch.hosts import Host

HOSTILE = 'it\'s $HOME `x` "here"'


def test_a_script_survives_two_shells_whatever_its_paths_are_called(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    code = "import os, sys; print(os.getcwd(), os.environ['PYTHONPATH'], sys.argv[1], sep='|')"
    script = python_script(folder, HOSTILE, ["-c", code, HOSTILE])
    *_, remote = reach_command("ssh", "h1", script)  # what the shell of a user there gets
    for command in (reach_command("sh", "h1", script), ["sh", "-c", remote]):
        text = subprocess.check_output(command, text=True)
        assert text == f"{folder}|{HOSTILE}|{HOSTILE}\n"


def test_ssh_asks_for_no_password_and_takes_no_host_for_an_option() -> None:
    command = reach_command("ssh", "-h1", "true")
    assert command[:3] == ["ssh", "-o", "BatchMode=yes"]
    assert command[-3:] == ["--", "-h1", "exec sh -c true"]


def test_an_interpreter_is_named_by_its_absolute_path() -> None:
    assert python_script(Path("/a"), "", ["-V"]) == f"cd /a && exec {sys.executable} -V"


def test_without_hostfile_and_job_this_machine_is_looked_at() -> None:
    found = find_hosts(None, {}, nodes=None, accelerators_per_node=3)
    assert found == ((Host("localhost", 3),), "sh")


def test_a_hostfiles_first_hosts_are_reached_by_ssh(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text("a slots=4\nb slots=4\n")
    found = find_hosts(path, {"SLURM_JOB_NODELIST": "c"}, nodes=1, accelerators_per_node=2)
    assert found == ((Host("a", 2),), "ssh")


def test_several_nodes_must_come_from_somewhere() -> None:
    with pytest.raises(ConfigError, match="--nodes: expected a --hostfile or a SLURM job for 2"):
        find_hosts(None, {}, nodes=2, accelerators_per_node=None)
