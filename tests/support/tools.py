"""Runs the tools as their users run them."""

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def run_tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, whatever it says."""
    command = [sys.executable, TOOLS / f"{name}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """Check that a tool has refused in one line."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    (line,) = done.stderr.splitlines()
    assert message in line
