"""The wheel and the sdist, and what somebody has who installs the wheel and has no checkout."""

import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import megadga
from megadga.commands.init import EXAMPLES
from tests.support.ranks import REPOSITORY
from tests.support.texts import made_up_texts, write_lines

SMALL = {"32000": "400"}
"""A vocabulary that text of a test's size allows, for the printed one."""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program in a folder that is no checkout, without paths to one; return its output."""
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(target: str, source: Path, folder: Path) -> Path:
    """Build a wheel or an sdist with what is installed here, without a network."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", REPOSITORY, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def venv(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel, and this environment's other packages."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
    python = venv / "bin" / "python"
    packages = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=venv)[:-1]
    )
    # A path alone: the .pth there that leads to the checkout is not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=venv)
    return venv


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_has_every_module_and_the_examples(wheel):
    tracked = [
        path
        for path in (REPOSITORY / "megadga").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    expected = {str(path.relative_to(REPOSITORY)) for path in tracked}
    assert {name for name in names_in(wheel) if name.startswith("megadga/")} == expected
    assert str((EXAMPLES / "dga.yaml").relative_to(REPOSITORY)) in expected


def test_the_sdist_builds_the_same_wheel(wheel, tmp_path):
    sdist = build("sdist", REPOSITORY, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    rebuilt = build("wheel", source, tmp_path / "wheel")
    assert names_in(rebuilt) == names_in(wheel)


def test_an_installed_wheel_makes_shards_checks_a_run_and_plans_its_launch(venv, tmp_path):
    program, python = venv / "bin" / "megadga", venv / "bin" / "python"
    where = run(python, "-c", "import megadga; print(megadga.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(venv)
    assert run(program, "--version", cwd=tmp_path) == f"megadga {megadga.__version__}\n"

    printed = run(program, "init", "run", cwd=tmp_path).splitlines()
    commands = [shlex.split(line) for line in printed if line.startswith("  megadga ")]
    folder = tmp_path / "run"
    (folder / "text").mkdir()
    for seed, name in enumerate(("text/novels", "text/plays", "qa.train", "qa.valid")):
        write_lines(folder / f"{name}.jsonl", made_up_texts(400, seed=seed))
    *preparing, (_, *launch) = commands
    for _, *words in preparing:
        run(program, *(SMALL.get(word, word) for word in words), cwd=folder)
    planned = run(program, *launch, "--accelerators-per-node=2", "--dry-run", cwd=folder)

    assert [words[1] for words in commands] == ["data", "data", "data", "check", "launch"]
    lines = planned.splitlines()
    assert len(lines) == 2
    assert all(f"{python} -u -m megadga.cli train run.yaml" in line for line in lines)
