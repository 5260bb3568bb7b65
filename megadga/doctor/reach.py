"""How a command gets onto a host: over ssh, by srun inside an allocation, or directly."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from megadga.cluster.launching.remote import SSH_OPTIONS


class Reach(Protocol):
    """A way to hosts."""

    @property
    def name(self) -> str:
        """What it is called in a message."""
        ...

    def command(self, host: str, script: str) -> list[str]:
        """Return what to run here for a host's shell to run a script; input and output pass."""
        ...


@dataclass(frozen=True)
class Ssh:
    """Over ssh, without passwords."""

    name: str = "ssh"

    def command(self, host: str, script: str) -> list[str]:
        """See ``Reach``."""
        return ["ssh", *SSH_OPTIONS, "--", host, f"exec sh -c {shlex.quote(script)}"]


@dataclass(frozen=True)
class Srun:
    """As a step of the SLURM allocation that this process runs in."""

    name: str = "srun"

    def command(self, host: str, script: str) -> list[str]:
        """See ``Reach``."""
        one = ("--nodes=1", "--ntasks=1", "--overlap", f"--nodelist={host}", "--quiet")
        return ["srun", *one, "sh", "-c", script]


@dataclass(frozen=True)
class Here:
    """On this machine, which is the only host."""

    name: str = "sh"

    def command(self, host: str, script: str) -> list[str]:  # noqa: ARG002
        """See ``Reach``."""
        return ["sh", "-c", script]


def python_script(folder: Path, python_path: str, arguments: Sequence[str]) -> str:
    """Return a line of shell that runs this interpreter in a folder, as ranks will run.

    Args:
        folder: Where it runs; must be there.
        python_path: Its ``PYTHONPATH``; empty: the host's own.
        arguments: After the interpreter's name.
    """
    words = [sys.executable, *arguments]
    setting = f"PYTHONPATH={shlex.quote(python_path)} " if python_path else ""
    # `exec`, so that a signal to what was started reaches the interpreter.
    return f"cd {shlex.quote(str(folder))} && {setting}exec {shlex.join(words)}"
