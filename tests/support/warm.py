"""Starts Python programs in processes that have imported torch, DeepSpeed and megadga already.

That takes seconds of every process, and most of what a short job takes. So a server imports them
once (``multiprocessing.forkserver``) and forks a process for each program, which then runs as
``python -m MODULE`` would: its own environment, folder, session, output and exit code. Tests of
launchers start theirs by hand instead: that is what they are about. Forked processes share one
seed of ``hash``, those of launchers do not.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import forkserver
from pathlib import Path
from subprocess import TimeoutExpired
from typing import final

IMPORTED = (
    "torch._dynamo",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "megadga.commands.train",
    "megadga.train.assembly",
    "megadga.train.loop",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_FIXED = {"OMP_NUM_THREADS": "1"}
"""What torch reads when it is imported."""
_GRACE_S = 20.0


@final
class WarmProcess:
    """A program that runs; what is left of its session when the context ends is killed.

    Args:
        command: ``sys.executable``, ``-m``, a module, and its arguments.
        folder: Works there.
        environment: All variables of it.
        output: File that both streams are appended to; or a terminal, which is then the program's
            own.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: Path
    ) -> None:
        assert list(command[:2]) == [sys.executable, "-m"]
        _ensure_running()
        program = (list(command[2:]), folder, dict(environment), output)
        self._process = _CONTEXT.Process(target=_run, args=program)
        self._process.start()

    def __enter__(self) -> "WarmProcess":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.pid is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()
        self._process.close()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None: it runs."""
        return self._process.exitcode

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self._process.terminate()

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def run_warm(
    command: Sequence[str],
    *,
    folder: Path,
    environments: Sequence[Mapping[str, str]],
    output: Path,
    timeout_s: float,
) -> list[int]:
    """Run a program once in each environment, all at the same time; return the exit codes.

    Where one has failed, the others get some seconds to notice, and are killed.

    Raises:
        TimeoutExpired: If they take longer than ``timeout_s``.
    """
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                WarmProcess(command, folder=folder, environment=environment, output=output)
            )
            for environment in environments
        ]
        until = time.monotonic() + timeout_s
        while True:
            codes = [process.poll() for process in processes]
            if None not in codes:
                return [code for code in codes if code is not None]
            if any(codes):
                until = min(until, time.monotonic() + _GRACE_S)
            if time.monotonic() > until and not any(codes):
                raise TimeoutExpired(command, timeout_s, output=output.read_bytes())
            if time.monotonic() > until:
                return [-signal.SIGKILL if code is None else code for code in codes]
            time.sleep(0.02)


def _ensure_running() -> None:
    """Start the server, if none runs, in an environment that fits every program."""
    before = {name: os.environ.get(name) for name in _FIXED}
    os.environ.update(_FIXED)
    try:
        forkserver.set_forkserver_preload([__name__, *IMPORTED])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(arguments: list[str], folder: Path, environment: dict[str, str], output: Path) -> None:
    """Become the program; never return."""
    os.setsid()
    gc.freeze()  # DeepSpeed collects garbage often: not among all that was imported
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.pop("TORCHDYNAMO_DISABLE", None)
    # For reading, too, or a terminal would not become this session's own.
    sink = os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(sink, stream)
    os.close(sink)
    # Anew: the server's streams remember what could be done with its files.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os._exit(_interpret(arguments))


def _interpret(arguments: list[str]) -> int:
    """Run a module, and its arguments, as the interpreter does; return the exit code."""
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [path for path in paths if path not in sys.path]
    code: object = 0
    try:
        sys.argv = arguments
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code
    except BaseException as error:  # noqa: BLE001  (as the interpreter does at its end)
        sys.excepthook(type(error), error, error.__traceback__)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return int(code or 0)  # pyright: ignore[reportArgumentType]
