"""Hosts of a run and their shells: finds them, connects to them and collects their reports."""

import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Literal, Self, final

from megadga.errors import ConfigError
from megadga.launch.doctor.gather import ANSWER, ClusterReport, HostQuery, HostReport, NoReport
from megadga.launch.hosts import (
    LOCALHOST,
    SSH_OPTIONS,
    Host,
    count_devices,
    first_hosts,
    forwarded,
    read_hostfile,
)

Reach = Literal["ssh", "srun", "sh"]
"""How hosts' shells are reached: without passwords, as a step of the SLURM allocation that this
process runs in, or on this machine, which is the only host."""


def reach_command(reach: Reach, host: str, script: str) -> list[str]:
    """Return the local command that runs a shell script on a host, connected to its streams."""
    match reach:
        case "ssh":
            return ["ssh", *SSH_OPTIONS, "--", host, f"exec sh -c {shlex.quote(script)}"]
        case "srun":
            one = ("--nodes=1", "--ntasks=1", "--overlap", f"--nodelist={host}", "--quiet")
            return ["srun", *one, "sh", "-c", script]
        case "sh":
            return ["sh", "-c", script]


def python_script(folder: Path, python_path: str, arguments: Sequence[str]) -> str:
    """Return the shell command that runs this interpreter in a folder, as ranks are run.

    Args:
        folder: The working directory; must exist.
        python_path: ``PYTHONPATH``; empty: the host's own.
        arguments: Arguments of the interpreter.
    """
    words = [sys.executable, *arguments]
    setting = f"PYTHONPATH={shlex.quote(python_path)} " if python_path else ""
    # `exec`, so that signals reach the interpreter.
    return f"cd {shlex.quote(str(folder))} && {setting}exec {shlex.join(words)}"


def find_hosts(
    hostfile: Path | None,
    environment: Mapping[str, str],
    *,
    nodes: int | None,
    accelerators_per_node: int | None,
) -> tuple[tuple[Host, ...], Reach]:
    """Return the selected hosts, in rank order, and how to reach their shells.

    Args:
        hostfile: The hostfile; None: the hosts of the SLURM allocation, or this machine.
        environment: Environment variables, with those of an allocation.
        nodes: Number of hosts to use, at least 1; None: all.
        accelerators_per_node: Ranks per host, at least 1; None: as given by the hostfile or
            SLURM, else the number of accelerators or cores of this machine.

    Raises:
        ConfigError: If the hostfile, SLURM or this machine has fewer hosts or slots.
    """
    if hostfile is not None:
        listed = read_hostfile(hostfile)
        hosts = first_hosts(
            hostfile,
            listed,
            nodes=nodes or len(listed),
            accelerators_per_node=accelerators_per_node,
        )
        return hosts, "ssh"
    if "SLURM_JOB_NODELIST" in environment:
        names = _allocated(environment["SLURM_JOB_NODELIST"])
        slots = accelerators_per_node or _allocated_slots(environment)
        if nodes is not None and nodes > len(names):
            raise ConfigError(f"--nodes: expected at most {len(names)} in this job, found {nodes}")
        return tuple(Host(name, slots) for name in names[:nodes]), "srun"
    if nodes is not None and nodes > 1:
        raise ConfigError(f"--nodes: expected a --hostfile or a SLURM job for {nodes} hosts")
    return (Host(LOCALHOST, accelerators_per_node or count_devices()[0]),), "sh"


def _allocated(nodelist: str) -> list[str]:
    command = ["scontrol", "show", "hostnames", nodelist]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"SLURM_JOB_NODELIST: expected scontrol to tell the hosts of {nodelist!r}, "
            f"found {error}"
        ) from None
    return done.stdout.split()


def _allocated_slots(environment: Mapping[str, str]) -> int:
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_NTASKS_PER_NODE"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return 1


_MAX_CONNECTIONS = 64
"""Maximum number of simultaneous connections; each is a local process."""


_GATHER_MODULE = "megadga.launch.doctor.gather"


@final
class _HostConnection:
    """A process on a host that answers queries, one JSON line each.

    Args:
        host: Name of the host.
        reach: How its shell is reached.
        timeout_s: Time-out of a query in seconds.
    """

    def __init__(self, host: str, reach: Reach, *, timeout_s: float) -> None:
        self._host, self._timeout_s = host, timeout_s
        script = python_script(
            Path.cwd(), os.environ.get("PYTHONPATH", ""), ["-m", _GATHER_MODULE, host]
        )
        self._errors: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115  (closed at exit)
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(  # noqa: S603  (the user's own hosts)
            reach_command(reach, host, script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # after Ctrl-C its input closes, and it cleans up
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._pipe(self._process.stdin).close()
        try:
            self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()
        self._errors.close()

    def query(self, value: object) -> Any:
        """Return the answer to a query; None: it did not come."""
        timer = threading.Timer(self._timeout_s, self._process.kill)
        timer.start()
        try:
            pipe = self._pipe(self._process.stdin)
            pipe.write(json.dumps(value) + "\n")
            pipe.flush()
            for line in self._pipe(self._process.stdout):
                if line.startswith(ANSWER):
                    return json.loads(line.removeprefix(ANSWER))
        except OSError:
            pass  # the process has ended
        finally:
            timer.cancel()
        return None

    def no_report(self) -> NoReport:
        """Return why there was no answer."""
        with suppress(OSError):
            self._pipe(self._process.stdin).close()
        try:
            code = self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        killed = code is not None and code < 0
        return NoReport(self._host, None if killed else code, lines[-1] if lines else "")

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def query_hosts(
    hosts: Sequence[str],
    reach: Reach,
    *,
    folder: Path,
    port: int,
    ops: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> ClusterReport:
    """Query hosts, all at the same time; the first is that of rank 0.

    Args:
        hosts: Names of the hosts, each once.
        reach: How their shells are reached.
        folder: An existing folder that all of them should share.
        port: The port that rank 0 will listen on.
        ops: DeepSpeed's compiled operators that the run needs.
        timeout_s: Time-out of each host's report in seconds, above 0.
    """
    token = secrets.token_hex(4)
    marks = {host: f".doctor-{token}-{index}" for index, host in enumerate(hosts)}
    environment = forwarded(os.environ)
    with ExitStack() as stack, ThreadPoolExecutor(_MAX_CONNECTIONS) as pool:

        def query(host: str) -> tuple[_HostConnection, HostReport | NoReport]:
            first = host == hosts[0]
            request = HostQuery(
                folder=str(folder),
                mark=marks[host],
                master=hosts[0],
                port=port if first else None,
                ops=tuple(ops),
                environment=environment,
            )
            connection = _HostConnection(host, reach, timeout_s=timeout_s)
            stack.enter_context(connection)
            reply = connection.query(asdict(request))
            if reply is None:
                return connection, connection.no_report()
            return connection, HostReport.from_json(reply)

        replies = list(pool.map(query, hosts))
        reports = tuple(report for _, report in replies)
        return ClusterReport(reports, _unseen(replies[0], reports, marks))


def _unseen(
    first: tuple[_HostConnection, HostReport | NoReport],
    reports: Sequence[HostReport | NoReport],
    marks: dict[str, str],
) -> tuple[str, ...]:
    connection, own = first
    if isinstance(own, NoReport):
        return ()
    left = {
        report.host: marks[report.host]
        for report in reports
        if isinstance(report, HostReport) and not report.folder_error
    }
    seen: list[str] = connection.query(list(left.values())) or []
    return tuple(host for host, mark in left.items() if mark not in seen)
