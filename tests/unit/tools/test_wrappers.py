"""The files in `tools/` that run commands of `megadga data`, started as in a shell."""

import subprocess
import sys

import pytest

from tests.support.ranks import REPOSITORY

COMMANDS = {
    "adopt_shards": "adopt",
    "build_shards": "build",
    "check_leakage": "leakage",
    "histogram": "histogram",
    "inspect_shards": "inspect",
    "merge_shards": "merge",
    "train_clusters": "cluster",
    "train_tokenizer": "tokenizer",
    "verify_shards": "verify",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_tool_is_called_by_its_own_name_and_shows_its_command(name):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / f"{name}.py", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name}.py ")
    assert f"megadga data {COMMANDS[name]} " in done.stdout
