"""`megadga doctor`: asks all hosts, judges their answers, runs a small all-reduce."""

import ipaddress
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self, final

from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.launch.doctor.gather import (
    ANSWER,
    Answers,
    HostQuery,
    HostReport,
    NoReport,
    Software,
    own_software,
)
from megadga.launch.doctor.local_ranks import LocalRanks
from megadga.launch.hosts import (
    LOCALHOST,
    SSH_OPTIONS,
    Host,
    Node,
    count_devices,
    first_hosts,
    forwarded,
    read_hostfile,
)
from megadga.launch.operators import needed_ops
from megadga.launch.ranks import master_port

Reach = Literal["ssh", "srun", "sh"]
"""How hosts' shells are reached: without passwords, as a step of the SLURM allocation that this
process runs in, or on this machine, which is the only host."""


def reach_command(reach: Reach, host: str, script: str) -> list[str]:
    """Return what to run here for a host's shell to run a script; input and output pass."""
    match reach:
        case "ssh":
            return ["ssh", *SSH_OPTIONS, "--", host, f"exec sh -c {shlex.quote(script)}"]
        case "srun":
            one = ("--nodes=1", "--ntasks=1", "--overlap", f"--nodelist={host}", "--quiet")
            return ["srun", *one, "sh", "-c", script]
        case "sh":
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


def find_hosts(
    hostfile: Path | None,
    environment: Mapping[str, str],
    *,
    nodes: int | None,
    accelerators_per_node: int | None,
) -> tuple[tuple[Host, ...], Reach]:
    """Return the hosts that are meant, in the order of ranks, and the way to their shells.

    Args:
        hostfile: Lists them; None: those of the SLURM allocation, or else this machine alone.
        environment: Says whether there is an allocation.
        nodes: How many of them, at least 1; None: all.
        accelerators_per_node: Ranks on each, at least 1; None: what the hostfile or SLURM says,
            or else as many as there are accelerators or cores here.

    Raises:
        ConfigError: If the hostfile, SLURM or this machine has not what is asked for.
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


_AT_ONCE = 64
"""Hosts that are being connected to at a time: each is a process here."""


_GATHERING = "megadga.launch.doctor.gather"


@final
class _Conversation:
    """The side that asks, of a conversation with one host.

    Args:
        host: Its name.
        reach: How its shell is reached.
        timeout_s: After which an answer will not come.
    """

    def __init__(self, host: str, reach: Reach, *, timeout_s: float) -> None:
        self._host, self._timeout_s = host, timeout_s
        script = python_script(
            Path.cwd(), os.environ.get("PYTHONPATH", ""), ["-m", _GATHERING, host]
        )
        self._errors: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115  (until it is over)
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(  # noqa: S603  (the user's own hosts)
            reach_command(reach, host, script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # a Ctrl-C ends it through its input, and it cleans up
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

    def ask(self, question: object) -> Any:
        """Return the answer to a question; None: there is none."""
        out_of_time = threading.Timer(self._timeout_s, self._process.kill)
        out_of_time.start()
        try:
            pipe = self._pipe(self._process.stdin)
            pipe.write(json.dumps(question) + "\n")
            pipe.flush()
            for line in self._pipe(self._process.stdout):
                if line.startswith(ANSWER):
                    return json.loads(line.removeprefix(ANSWER))
        except OSError:
            pass  # it has ended
        finally:
            out_of_time.cancel()
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


def ask_hosts(
    hosts: Sequence[str],
    reach: Reach,
    *,
    folder: Path,
    port: int,
    ops: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> Answers:
    """Ask hosts, the first of which is that of rank 0.

    Args:
        hosts: Their names, each once.
        reach: How their shells are reached.
        folder: An existing one that all of them should share.
        port: On which rank 0 will listen.
        ops: DeepSpeed's compiled operators that the run needs.
        timeout_s: Seconds that each host has for an answer, above 0.
    """
    token = secrets.token_hex(4)
    marks = {host: f".doctor-{token}-{index}" for index, host in enumerate(hosts)}
    environment = forwarded(os.environ)
    with ExitStack() as stack, ThreadPoolExecutor(_AT_ONCE) as pool:

        def ask(host: str) -> tuple[_Conversation, HostReport | NoReport]:
            first = host == hosts[0]
            request = HostQuery(
                folder=str(folder),
                mark=marks[host],
                master=hosts[0],
                port=port if first else None,
                ops=tuple(ops),
                environment=environment,
            )
            conversation = _Conversation(host, reach, timeout_s=timeout_s)
            stack.enter_context(conversation)
            said = conversation.ask(asdict(request))
            if said is None:
                return conversation, conversation.no_report()
            return conversation, HostReport.from_json(said)

        asked = list(pool.map(ask, hosts))
        reports = tuple(report for _, report in asked)
        return Answers(reports, _unseen(asked[0], reports, marks))


def _unseen(
    first: tuple[_Conversation, HostReport | NoReport],
    reports: Sequence[HostReport | NoReport],
    marks: dict[str, str],
) -> tuple[str, ...]:
    conversation, own = first
    if isinstance(own, NoReport):
        return ()
    left = {
        report.host: marks[report.host]
        for report in reports
        if isinstance(report, HostReport) and not report.folder_error
    }
    seen: list[str] = conversation.ask(list(left.values())) or []
    return tuple(host for host, mark in left.items() if mark not in seen)


_SSH_FAILED = 255


@dataclass(frozen=True)
class Finding:
    """Something that the user should know.

    Attributes:
        host: Where.
        what: What was expected, and what was found.
        remedy: What to do about it.
        failed: Whether training would fail, or be wrong.
    """

    host: str
    what: str
    remedy: str
    failed: bool = True

    def __str__(self) -> str:
        return f"{self.host}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Wanted:
    """What the hosts should be like.

    Attributes:
        hosts: In the order of ranks, each with the ranks that it is to run.
        software: That of the launcher.
        folder: Where checkpoints go, as every host should see it.
        port: On which the first will listen.
        interpreter: Absolute path of Python, the same on every host.
        reach: What hosts are reached with.
    """

    hosts: tuple[Host, ...]
    software: Software
    folder: Path
    port: int
    interpreter: str
    reach: Reach


def findings(answers: Answers, wanted: Wanted) -> list[Finding]:
    """Return everything that is to be said, in the order of hosts."""
    found: list[Finding] = []
    for host, report in zip(wanted.hosts, answers.reports, strict=True):
        if isinstance(report, NoReport):
            found.append(_silence(report, wanted))
            continue
        found.extend(_software(report, wanted))
        found.extend(_room(report, host.slots))
        found.extend(_folder(report, answers, wanted))
        found.extend(_network(report, wanted))
        found.extend(_operators(report))
    return found


def _silence(report: NoReport, wanted: Wanted) -> Finding:
    said = f": {report.said}" if report.said else ""
    if report.code is None:
        return Finding(report.host, f"expected an answer, found none in time{said}", "is it up?")
    if report.code == _SSH_FAILED and wanted.reach == "ssh":
        what = f"expected to get in by ssh, found no way{said}"
        remedy = f"`ssh -o BatchMode=yes {report.host} true` must work without a password"
        return Finding(report.host, what, remedy)
    what = f"expected megadga under {wanted.interpreter}, found exit code {report.code}{said}"
    return Finding(report.host, what, "install the same environment at the same path there")


def _software(report: HostReport, wanted: Wanted) -> Iterator[Finding]:
    ours, theirs = wanted.software, report.software
    for name, version in ours.versions.items():
        if (found := theirs.versions[name]) != version:
            what = f"expected {name} {version} as here, found {found}"
            yield Finding(report.host, what, "install the same environment there")
    if theirs.code != ours.code:
        what = f"expected megadga's code {ours.code[:12]} as here, found {theirs.code[:12]}"
        yield Finding(report.host, what, "bring the same version of megadga there")


def _room(report: HostReport, slots: int) -> Iterator[Finding]:
    if slots > report.devices:
        what = f"expected {slots} {report.kind} for {slots} ranks, found {report.devices}"
        remedy = "lower slots= in the hostfile, or --accelerators-per-node"
        yield Finding(report.host, what, remedy)


def _folder(report: HostReport, answers: Answers, wanted: Wanted) -> Iterator[Finding]:
    if report.folder_error:
        what = f"expected to write in {wanted.folder}, found: {report.folder_error}"
        yield Finding(report.host, what, "put the run's output where every host can write")
    elif report.host in answers.unseen:
        what = f"expected {wanted.folder} to be shared, found that {wanted.hosts[0].name} "
        what += "does not see what is written there"
        yield Finding(report.host, what, "put the run's output on a file system that is shared")


def _network(report: HostReport, wanted: Wanted) -> Iterator[Finding]:
    first = wanted.hosts[0].name
    if report.port_error:
        what = f"expected port {wanted.port} to be free, found that it {report.port_error}"
        yield Finding(report.host, what, "end what listens there, or set MASTER_PORT to another")
    if not report.master_address:
        what = f"expected to know the address of {first}, found none"
        yield Finding(report.host, what, "mend its /etc/hosts or name service")
    elif report.host != first and _is_loopback(report.master_address):
        what = f"expected {first} to be another machine, found {report.master_address}"
        yield Finding(report.host, what, "mend its /etc/hosts, where the name means loopback")
    elif not report.interface:
        what = f"expected an interface towards {first}, found none that is up"
        yield Finding(report.host, what, "mend its network, or set GLOO_SOCKET_IFNAME")


def _operators(report: HostReport) -> Iterator[Finding]:
    for name in report.ops_missing:
        what = f"DeepSpeed's operator {name} is not compiled yet, and will be at first use"
        remedy = "it takes a minute or two, once; TORCH_EXTENSIONS_DIR says where it is kept"
        yield Finding(report.host, what, remedy, failed=False)

    for path in report.op_locks:
        what = f"expected no lock on an operator, found {path}, for which ranks would wait"
        yield Finding(report.host, what, "remove it, unless something is being compiled now")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


_REDUCING = "megadga.launch.doctor.local_ranks"


_START_S = 120.0
"""That importing torch on a slow file system may take, besides the deadline."""


_REMEDY = (
    "look for a firewall between hosts, or an interface that does not lead to the others "
    "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME); NCCL_DEBUG=INFO says more"
)


def reduce_on(
    hosts: Sequence[Host], reach: Reach, *, port: int, deadline_s: float
) -> str | list[Finding]:
    """Sum numbers over all ranks.

    Args:
        hosts: In the order of ranks, each with its number of them.
        reach: How their shells are reached.
        port: Where rank 0 listens.
        deadline_s: Seconds that ranks wait for each other, above 0.

    Returns:
        A line with the bus bandwidth, or what went wrong on each host where something did.
    """
    slots = hosts[0].slots  # as many on every host

    def start(index: int) -> str | Finding:
        node = Node(index, len(hosts), hosts[0].name, port)
        ranks = LocalRanks(node, slots, deadline_s, forwarded(os.environ))
        return _run(hosts[index].name, reach, ranks)

    with ThreadPoolExecutor(len(hosts)) as pool:
        said = list(pool.map(start, range(len(hosts))))
    if failures := [each for each in said if isinstance(each, Finding)]:
        return failures
    bytes_per_s = float(str(said[0]).split()[-1])
    size = slots * len(hosts)
    return f"all-reduce of {size} ranks: {bytes_per_s / 1e9:.3f} GB/s bus bandwidth"


def _run(host: str, reach: Reach, ranks: LocalRanks) -> str | Finding:
    script = python_script(Path.cwd(), os.environ.get("PYTHONPATH", ""), ["-m", _REDUCING])
    try:
        done = subprocess.run(  # noqa: S603  (the user's own hosts)
            reach_command(reach, host, script),
            input=json.dumps(asdict(ranks)),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S + 3 * ranks.deadline_s,
        )
    except subprocess.TimeoutExpired:
        return Finding(host, "expected the all-reduce to end, found no sign of the host", _REMEDY)
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    # The first rank to fail says why; the others, what they waited for in vain.
    said = next(
        (line for line in lines if line.startswith("rank ")),
        f"rank of {host} ended with {done.returncode}: {last}",
    )
    what = f"expected an all-reduce within {ranks.deadline_s:g} s, found: {said}"
    return Finding(host, what, _REMEDY)


def preflight(
    hosts: Sequence[Host],
    *,
    output: Path,
    port: int,
) -> list[str]:
    """Return what would keep a run from starting or working on hosts, before any rank starts.

    Each host is asked once, over ssh, and all at the same time: seconds, without torch where
    there are no accelerators.

    Args:
        hosts: In the order of ranks, at least one, each once, with its number of ranks as slots.
        output: The run's folder, which need not exist yet.
        port: Where rank 0 will listen.

    Returns:
        A line a failure, which begins with the host's name and ends with the remedy.
    """
    found = look_at(hosts, "ssh", output=output, port=port, ops=())
    return [str(finding) for finding in found if finding.failed]


def look_at(
    hosts: Sequence[Host], reach: Reach, *, output: Path, port: int, ops: Sequence[str]
) -> list[Finding]:
    """Ask hosts, and judge their answers.

    Args:
        hosts: In the order of ranks, each once, with its number of ranks as slots.
        reach: How their shells are reached.
        output: The run's folder, which need not exist yet.
        port: Where rank 0 will listen.
        ops: DeepSpeed's compiled operators that the run needs.
    """
    folder = _existing(output)
    answers = ask_hosts([host.name for host in hosts], reach, folder=folder, port=port, ops=ops)
    wanted = Wanted(
        hosts=tuple(hosts),
        software=own_software(),
        folder=folder,
        port=port,
        interpreter=sys.executable,
        reach=reach,
    )
    return findings(answers, wanted)


def _existing(folder: Path) -> Path:
    """Return the folder, or else the nearest one above it: nothing is made for a diagnosis."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir()).absolute()


def run_doctor(
    config: RunConfig | None,
    *,
    hostfile: Path | None,
    nodes: int | None,
    accelerators_per_node: int | None,
    deadline_s: float,
    all_reduce: bool = True,
) -> bool:
    """Print a line for each finding, with its remedy; return whether something failed.

    Args:
        config: The run, whose output all hosts must share; None: they must share this folder.
        hostfile: See ``find_hosts``.
        nodes: See ``find_hosts``.
        accelerators_per_node: See ``find_hosts``.
        deadline_s: Seconds that ranks wait for each other, above 0.
        all_reduce: Try all ranks together, if nothing has failed until then.

    Raises:
        ConfigError: If there are no such hosts, or ``MASTER_PORT`` is no port.
    """
    hosts, reach = find_hosts(
        hostfile, os.environ, nodes=nodes, accelerators_per_node=accelerators_per_node
    )
    print(f"{len(hosts)} hosts, {sum(host.slots for host in hosts)} ranks, by {reach}", flush=True)
    port = _port()
    output = Path() if config is None else config.output
    ops = () if config is None else needed_ops(config.deepspeed)
    failed = _tell(look_at(hosts, reach, output=output, port=port, ops=ops))
    if all_reduce and not failed:
        reduced = reduce_on(hosts, reach, port=port, deadline_s=deadline_s)
        if isinstance(reduced, str):
            print(f"ok  {reduced}")
        else:
            failed = _tell(reduced)
    return failed


def _tell(found: Sequence[Finding]) -> bool:
    """Print a line for each finding; return whether something failed."""
    for finding in found:
        print(f"{'FAILED' if finding.failed else 'note'}  {finding}")
    return any(finding.failed for finding in found)


def _port() -> int:
    if (port := master_port(os.environ)) == 0:
        raise ConfigError("MASTER_PORT: expected a port in [1, 65535], found '0'")
    return port
