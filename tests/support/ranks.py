"""Runs a worker module on several ranks, each a real process, and collects what rank 0 wrote."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.warm import run_warm

REPOSITORY = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_environment(**variables: str) -> dict[str, str]:
    """The environment of a worker: one thread, no rank of this process's own, project's ops."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "PYTEST_"))
    }
    extensions = str(Path(sys.prefix) / "torch-extensions")
    return {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", extensions),
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **variables,
    }


def copy_operators(folder: Path) -> Path:
    """Copy this environment's compiled operators, without locks."""
    compiled = Path(rank_environment()["TORCH_EXTENSIONS_DIR"])
    if compiled.is_dir():
        shutil.copytree(compiled, folder, ignore=shutil.ignore_patterns("lock"))
    return folder


@contextmanager
def own_session(command: list[str], **options: Any) -> Generator[subprocess.Popen[Any]]:
    """Start a command in a session of its own; whatever is left of it at the end is killed."""
    process: subprocess.Popen[Any] = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def environments_of_ranks(world_size: int) -> list[dict[str, str]]:
    """What a launcher tells each rank of a new job on this machine."""
    shared = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def run_ranks(
    module: str, world_size: int, tmp_path: Path, *arguments: str, timeout_s: float = 300
) -> Any:
    """Run ``python -m module OUTPUT *arguments`` on each rank; return rank 0's JSON."""
    output = tmp_path / f"{module.rsplit('.', 1)[-1]}-{world_size}.json"
    log = tmp_path / f"{output.stem}.log"
    environments = environments_of_ranks(world_size)
    try:
        codes = run_warm(
            [sys.executable, "-m", module, str(output), *arguments],
            folder=REPOSITORY,
            environments=[rank_environment(**each) for each in environments],
            output=log,
            timeout_s=timeout_s,
        )
    finally:
        remove_shared_buffers(int(environments[0]["MASTER_PORT"]))
    assert codes == [0] * world_size, f"{module} ended with {codes}:\n{log.read_text()[-6000:]}"
    return json.loads(output.read_text())


def remove_shared_buffers(port: int) -> None:
    """DeepSpeed leaves a 69 MB file of shared memory a rank; they carry the port's number."""
    for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}*"):  # noqa: S108
        buffer.unlink()
