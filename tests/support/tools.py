"""Runs commands of `megadga` in this process, as their users run them in a shell."""

import io
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from megadga.cli import main


def run_data(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of `megadga data` to its end, whatever it says."""
    return run_command("data", name, *arguments)


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of `megadga` to its end, whatever it says.

    By default commands use all cores. Here there is one: what they do takes less time than more
    processes take to start.
    """
    words = [*map(str, arguments)]
    with (
        patch.object(os, "cpu_count", return_value=1),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            code = main(words)
        except SystemExit as ended:  # of argparse
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), errors.getvalue())


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """Check that a command has refused in one line."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    (line,) = done.stderr.splitlines()
    assert message in line
