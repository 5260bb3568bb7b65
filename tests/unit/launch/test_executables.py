"""`megadga launch`, and the files in `launch/` that run it from a checkout."""

import shutil
import subprocess
import sys

import pytest

from megadga.cli import main
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
def folder(tmp_path, monkeypatch):
    """The working directory, with a run and a hostfile, in an environment that has a secret."""
    folder = tmp_path / "my $folder"
    folder.mkdir()
    write_run(folder).rename(folder / "my run.yaml")
    (folder / "my hosts").write_text("node-a slots=2\nnode-b slots=2\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_TOKEN", "hush")
    return folder


def test_there_is_no_other():
    assert sorted(path.name for path in LAUNCH.iterdir()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_called_by_its_own_name(kind):
    done = subprocess.run(
        [sys.executable, LAUNCH / kind, "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: launch/{kind} ")


@pytest.mark.parametrize("kind", KINDS)
def test_help_names_what_all_have_in_common(kind, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "99")
    with pytest.raises(SystemExit, match="0"):
        main(["launch", kind, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: megadga launch {kind} ")
    for option in ("--accelerators-per-node N", "--time [D-]HH:MM:SS", "--set KEY=VALUE"):
        assert option in shown
    assert ("--nodes N" in shown) is (kind != "local")
    assert ("--hostfile FILE" in shown) is (kind in ("mpi", "ssh", "torchrun"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_prints_the_one_command_and_does_nothing(kind, folder, capsys):
    before = sorted(folder.rglob("*"))
    options = ["--accelerators-per-node", "2", "--dry-run", "--set", "training.steps=7"]
    assert main(["launch", kind, *ARGUMENTS[kind], *options, "my run.yaml"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    if kind != "k8s":
        assert "megadga.cli" in out
    assert "my run.yaml" in out
    assert "training.steps=7" in out
    assert "hush" not in out
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", ["local", "mpi", "slurm", "ssh", "torchrun"])
def test_an_issue_in_the_configuration_ends_it_before_anything_starts(kind, folder, capsys):
    before = sorted(folder.rglob("*"))
    options = ["--accelerators-per-node", "2", "my run.yaml", "--set", "sed=7"]
    assert main(["launch", kind, *ARGUMENTS[kind], *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "override 1: sed: expected a known key, found 'sed'; did you mean 'seed'?\n"
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", ["mpi", "ssh", "torchrun"])
def test_a_hostfile_that_is_not_there_is_no_reason_to_train_here(kind, folder, capsys):
    assert main(["launch", kind, "--hostfile", "none", "my run.yaml"]) == 2
    assert (
        capsys.readouterr().err
        == "none: expected a readable hostfile, found: No such file or directory\n"
    )


@pytest.mark.parametrize("kind", ["mpi", "ssh", "torchrun"])
def test_several_nodes_need_a_hostfile(kind, folder, capsys):
    assert main(["launch", kind, "--nodes", "2", "my run.yaml"]) == 2
    assert (
        capsys.readouterr().err == "--hostfile: expected a file that lists 2 hosts, found none\n"
    )


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
