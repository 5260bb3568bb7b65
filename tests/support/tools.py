"""Runs commands of `megadga` in this process, as their users run them in a shell."""

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout

from megadga.cli import main


def run_data(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of `megadga data` to its end, whatever it says."""
    return run_command("data", name, *arguments)


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of `megadga` to its end, whatever it says."""
    words = [*map(str, arguments)]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
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
