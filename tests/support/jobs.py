"""Starts training the way people do: by a launcher, or as one process."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.ranks import (
    REPOSITORY,
    environments_of_ranks,
    free_port,
    own_session,
    rank_environment,
)
from tests.support.warm import run_warm


@dataclass(frozen=True)
class Finished:
    """What became of a job.

    Attributes:
        code: Its exit code.
        text: Everything that it wrote to either stream.
    """

    code: int
    text: str


@dataclass(frozen=True)
class Program:
    """A Python module without a launcher.

    Attributes:
        arguments: Those of the interpreter: ``-m``, the module, then its own.
        ranks: As many processes, each with its rank in the environment; 0: one without.
    """

    arguments: tuple[str, ...]
    ranks: int = 0


def alone(*arguments: str) -> Program:
    """A module as one process, without a launcher."""
    return Program(("-m", *arguments))


def on_ranks(*arguments: str, ranks: int = 2) -> Program:
    """A module on several ranks, without a launcher."""
    return Program(("-m", *arguments), ranks)


def by_torchrun(*arguments: str, ranks: int = 2) -> list[str]:
    """A module on several ranks, as ``torchrun`` starts them."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"),
        *("--master-addr=127.0.0.1", f"--master-port={free_port()}", "-m", *arguments),
    ]


def by_deepspeed(
    *arguments: str, ranks: int = 2, module: bool = True, port: int | None = None
) -> list[str]:
    """A module, or else a script, on several ranks, as ``deepspeed`` starts them."""
    launcher = Path(sys.executable).with_name("deepspeed")
    return [
        *(
            str(launcher),
            "--num_accelerators",
            str(ranks),
            "--master_port",
            str(port or free_port()),
        ),
        *(("--module", *arguments) if module else arguments),
    ]


def run_job(
    command: list[str] | Program,
    folder: Path,
    *,
    timeout_s: float = 300,
    packages: Path | None = None,
    **variables: str,
) -> Finished:
    """Run a command in a folder to its end, in a session of its own, with more variables.

    ``packages`` is a folder that more packages are imported from.
    """
    environment = rank_environment(**variables)
    if packages is not None:
        environment["PYTHONPATH"] += f"{os.pathsep}{packages}"
    if isinstance(command, Program):
        return _run_program(command, folder, environment, timeout_s=timeout_s)
    with own_session(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        text, _ = process.communicate(timeout=timeout_s)
    return Finished(process.returncode, text.decode())


def run_tool(
    name: str, folder: Path, *arguments: object, timeout_s: float = 300, **variables: str
) -> Finished:
    """Run a program of ``tools/`` in a folder to its end, as one process."""
    program = alone(name, *map(str, arguments))
    tools = REPOSITORY / "tools"
    return run_job(program, folder, timeout_s=timeout_s, packages=tools, **variables)


def _run_program(
    program: Program, folder: Path, environment: dict[str, str], *, timeout_s: float
) -> Finished:
    command = [sys.executable, *program.arguments]
    environments = environments_of_ranks(program.ranks) if program.ranks else [{}]
    with tempfile.NamedTemporaryFile() as output:
        codes = run_warm(
            command,
            folder=folder,
            environments=[environment | each for each in environments],
            output=Path(output.name),
            timeout_s=timeout_s,
        )
        return Finished(next(filter(None, codes), 0), Path(output.name).read_text())
