"""A SLURM cluster on hosts: munge everywhere, the controller on the first, a slurmd on each."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.faults import DEADLINE_S
from tests.cluster.hosts import Host, hosts
from tests.cluster.runs import Trial

CORES = 4
ENDED = ("", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
START_TIMEOUT_S = 180.0
CGROUP = """\
CgroupPlugin=cgroup/v1
CgroupAutomount=no
"""
SETTINGS = """\
ClusterName=test
SlurmctldHost={controller}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
SlurmdTimeout={slurmd_timeout_s}
InactiveLimit=0
KillWait=30
MessageTimeout=20
GresTypes=gpu
NodeName={nodes} CPUs={cores} Gres=gpu:{devices} State=UNKNOWN
PartitionName=test Nodes={nodes} Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A cluster that takes jobs.

    Attributes:
        hosts: All of them; jobs are sent from the first.
        folder: Of SLURM's own logs and state.
    """

    hosts: tuple[Host, ...]
    folder: Path

    @property
    def login(self) -> Host:
        """Where people work."""
        return self.hosts[0]

    def submit(self, command: list[str], trial: Trial) -> str:
        """Run a command that submits a trial; return the job's number."""
        environment = trial.environment(MEGADGA_DEADLINE_S=str(DEADLINE_S / 2))
        done = self.login.run(*command, env=environment, cwd=trial.folder)
        assert done.code == 0, done.text
        return done.text.split()[-1]

    def wait_for_end(self, job: str, timeout_s: float) -> None:
        """Wait until a job has ended."""
        wait_until(lambda: self.state(job) in ENDED, timeout_s, self.logs)

    def start_again(self, job: str, timeout_s: float) -> None:
        """Wait until a job is back in the queue, and have it start in seconds instead of a minute.

        Not at once: a host refuses to start a job in the second in which it has left it.
        """
        wait_until(lambda: self.state(job) == "PENDING", timeout_s, self.logs)
        self.login.sh(f"scontrol update JobId={job} StartTime=now+5")

    def state(self, job: str) -> str:
        """What SLURM calls a job's state, such as RUNNING; empty once it is forgotten."""
        done = self.login.run("squeue", "--noheader", "--format=%T", f"--jobs={job}")
        return done.text.strip() if done.code == 0 else ""

    def cancel(self, job: str) -> None:
        """Cancel a job."""
        self.login.sh(f"scancel {job}")

    def logs(self) -> str:
        """The ends of SLURM's own logs."""
        paths = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-1500:]}" for path in paths)


def wait_until(condition: Callable[[], bool], timeout_s: float, logs: Callable[[], str]) -> None:
    """Wait for something; if it does not happen, say what the logs say."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, f"{timeout_s} s without it:\n{logs()}"
        time.sleep(0.5)


@contextmanager
def slurm(count: int, *, devices: int = 2, slurmd_timeout_s: int = 20) -> Generator[Slurm]:
    """Start hosts with SLURM on them; at the end nothing of them is left.

    Args:
        count: Hosts.
        devices: GPUs that each says it has.
        slurmd_timeout_s: Seconds of silence after which a host counts as lost.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # munge has a user of its own
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
        etc = _write_settings(folder, count, devices, slurmd_timeout_s)
        with hosts(count, {"slurm": etc}) as running:
            for host in running:
                _start_munge(host, key)
            _start_daemon(running[0], "slurmctld")
            for host in running:
                _start_daemon(host, "slurmd")
            cluster = Slurm(running, folder)
            _wait_until_idle(cluster)
            yield cluster


def _write_settings(folder: Path, count: int, devices: int, slurmd_timeout_s: int) -> Path:
    etc = folder / "etc"
    etc.mkdir()
    (etc / "cgroup.conf").write_text(CGROUP)
    # Any character device passes for a GPU.
    (etc / "gres.conf").write_text(f"Name=gpu File=/dev/tty[1-{devices}]\n")
    text = SETTINGS.format(
        controller="h1",
        folder=folder,
        nodes=f"h[1-{count}]",
        cores=CORES,
        devices=devices,
        slurmd_timeout_s=slurmd_timeout_s,
    )
    (etc / "slurm.conf").write_text(text)
    return etc


def _start_munge(host: Host, key: Path) -> None:
    host.sh("mkdir --mode=755 /run/munge && chown munge:munge /run/munge")
    files = "--log-file=/run/munge/log --pid-file=/run/munge/pid --seed-file=/run/munge/seed"
    as_munge = "setpriv --reuid=munge --regid=munge --clear-groups"
    _start_daemon(host, f"{as_munge} munged --key-file={key} {files}")


def _start_daemon(host: Host, command: str) -> None:
    """Start one in a session of its own, not in that which ends with this command.

    It makes itself one, too, but as the last thing: it might be killed before.
    """
    host.sh(f"setsid --wait {command}")


def _wait_until_idle(cluster: Slurm) -> None:
    def idle() -> bool:
        states = cluster.login.run("sinfo", "--noheader", "--Node", "--format=%T").text
        return states.split() == ["idle"] * len(cluster.hosts)

    wait_until(idle, START_TIMEOUT_S, cluster.logs)
