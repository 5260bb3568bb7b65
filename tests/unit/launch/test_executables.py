"""Every file in `launch/`, as somebody starts it in a shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import REPOSITORY
from tests.support.runs import write_run

LAUNCH = REPOSITORY / "launch"
KINDS = ("k8s", "local", "mpi", "slurm", "ssh", "torchrun")
ARGUMENTS = {
    "k8s": ["--image", "registry/megadga:1", "--nodes", "2"],
    "local": [],
    "mpi": ["--hostfile", "my hosts", "--nodes", "2"],
    "slurm": ["--nodes", "2"],
    "ssh": ["--hostfile", "my hosts", "--nodes", "2"],
    "torchrun": ["--hostfile", "my hosts", "--nodes", "2"],
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my $folder"
    folder.mkdir()
    write_run(folder).rename(folder / "my run.yaml")
    (folder / "my hosts").write_text("node-a slots=2\nnode-b slots=2\n")
    return folder


def start(kind, *arguments, folder=REPOSITORY, path=None):
    return subprocess.run(
        [str(LAUNCH / kind), *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PATH": path or f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "99",
            "HF_TOKEN": "hush",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_there_is_no_other():
    assert sorted(path.name for path in LAUNCH.iterdir()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_help_names_what_all_have_in_common(kind):
    done = start(kind, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--accelerators-per-node N", "--time [D-]HH:MM:SS", "--set KEY=VALUE"):
        assert option in done.stdout
    assert ("--nodes N" in done.stdout) is (kind != "local")
    assert ("--hostfile FILE" in done.stdout) is (kind in ("mpi", "ssh", "torchrun"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_prints_the_one_command_and_does_nothing(kind, folder):
    before = sorted(folder.rglob("*"))
    done = start(
        kind,
        *ARGUMENTS[kind],
        *("--accelerators-per-node", "2", "--dry-run", "my run.yaml"),
        *("--set", "training.steps=7"),
        folder=folder,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if kind != "k8s":
        assert "megadga.cli" in done.stdout
    assert "my run.yaml" in done.stdout
    assert "training.steps=7" in done.stdout
    assert "hush" not in done.stdout
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", ["local", "mpi", "slurm", "ssh", "torchrun"])
def test_an_issue_in_the_configuration_ends_it_before_anything_starts(kind, folder):
    before = sorted(folder.rglob("*"))
    done = start(
        kind,
        *ARGUMENTS[kind],
        *("--accelerators-per-node", "2", "my run.yaml", "--set", "sed=7"),
        folder=folder,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "override 1: sed: expected a known key, found 'sed'; did you mean 'seed'?\n"
    )
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", ["mpi", "ssh", "torchrun"])
def test_a_hostfile_that_is_not_there_is_no_reason_to_train_here(kind, folder):
    done = start(kind, "--hostfile", "none", "my run.yaml", folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "none: expected a readable hostfile, found: No such file or directory\n"


@pytest.mark.parametrize("kind", ["mpi", "ssh", "torchrun"])
def test_several_nodes_need_a_hostfile(kind, folder):
    done = start(kind, "--nodes", "2", "my run.yaml", folder=folder)
    assert done.returncode == 2
    assert done.stderr == "--hostfile: expected a file that lists 2 hosts, found none\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_python_without_megadga_is_named_in_one_line(kind, tmp_path):
    shutil.copy(LAUNCH / kind, tmp_path / kind)
    # Isolated, and without site-packages: nothing that is installed is found.
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / kind), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"launch/{kind}: expected megadga to be installed for {sys.executable}")
