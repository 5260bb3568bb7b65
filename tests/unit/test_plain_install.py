"""What works without the packages of the extras: all but a few modules, and these say so."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

NEED_AN_EXTRA = {
    "megadga.demo.run",
    "megadga.export",
    "megadga.model.hugging_face",
    "megadga.plugin.trainer",
    "megadga.plugin.trainer_checks",
    "megadga.prepare.tokenizers.hugging_face",
    "megadga.report.plot_labels",
    "megadga.report.plots",
    "megadga.use.choosing",
    "megadga.use.generating",
    "megadga.use.loading",
    "megadga.use.scoring",
    "megadga.use.tokenizers",
}

NEEDS_TRITON = {"megadga.probes.row_dots"}  # which comes with torch for GPUs

BLOCKER = """
import importlib.abc, sys

class WithoutExtras(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, WithoutExtras())
"""


def _modules_of_extras():
    """Return the modules of the packages that only extras name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {
        str(line).partition(">=")[0] for extra in {*extras} - {"dev"} for line in extras[extra]
    }
    renamed = {"faiss-cpu": "faiss", "scikit-learn": "sklearn"}
    # What they bring along, and the package itself does not name.
    brought = {"huggingface_hub", "scipy"}
    modules: set[str] = {renamed.get(name, name.replace("-", "_")) for name in names} | brought
    assert all(importlib.util.find_spec(module) for module in modules)
    return modules


def _run(program, tmp_path):
    blocker = BLOCKER.format(extras=_modules_of_extras())
    return subprocess.run(
        [sys.executable, "-c", blocker + textwrap.dedent(program)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"},
    )


def test_only_what_is_for_an_extra_cannot_be_imported_without_it(tmp_path):
    done = _run(
        """
        import importlib, pkgutil, megadga
        for module in pkgutil.walk_packages(megadga.__path__, "megadga."):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                print("failed", module.name)
        """,
        tmp_path,
    )

    assert done.returncode == 0, done.stderr
    failed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("failed")}
    assert failed == NEED_AN_EXTRA | (
        set() if importlib.util.find_spec("triton") else NEEDS_TRITON
    )


def test_a_command_without_its_extra_names_it(tmp_path):
    for folder, file in (("model", "config.json"), ("run", "config.yaml")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text('{"model_type": "llama"}')
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    commands = {
        "evaluate model --set a=a.jsonl": "hf",
        "generate model --prompt a": "hf",
        "export run out": "hf",
        "demo": "report",
        "report run": "report",
    }

    done = _run(
        f"""
        from megadga.cli import main
        for command in {list(commands)}:
            assert main(command.split()) == 2
        """,
        tmp_path,
    )

    assert done.returncode == 0, done.stderr
    hints = re.findall(r"expected it to be installed, found none: pip install (.*)", done.stderr)
    assert hints == [f"'megadga[{extra}]'" for extra in commands.values()]
