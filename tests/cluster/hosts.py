"""Hosts on one machine: namespaces joined by a bridge that exists nowhere else.

A host has its own network, name, processes, mounts, ``/run``, ``/dev/shm`` and TMPDIR, an sshd,
and shares every other folder with the machine. Knows nothing of schedulers and launchers.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.jobs import Job, start
from tests.cluster.processes import Process, all_processes, pid_namespace, processes_in
from tests.cluster.secure_shell import write_secure_shell
from tests.support.jobs import Finished

NETNS_ETC = Path("/etc/netns")
START_TIMEOUT_S = 30.0
TEMPORARY = Path("/run/tmp")
"""Names in /tmp would not do: two hosts have processes of the same number, and one /tmp."""
STARTING = """\
set -e
hostname "$1"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd "$3"
/usr/sbin/sshd
touch "$2"
# The first process of a namespace inherits its orphans: dash buries them while it waits.
while :; do sleep 3600 & wait $!; done
"""


@dataclass(frozen=True)
class Host:
    """One of the hosts.

    Attributes:
        name: Which the others know it by.
        address: Of its only interface, ``eth0``.
        namespace: Name of its network on the machine.
        init: Its first process, as the machine numbers it.
        pids: What ``pid_namespace`` says of its processes.
    """

    name: str
    address: str
    namespace: str
    init: int
    pids: str

    def start(
        self, *command: str, env: Mapping[str, str] | None = None, cwd: Path = Path("/")
    ) -> AbstractContextManager[Job]:
        """Start a command; what is left of its process group at the end is killed."""
        entering = ("--net", "--uts", "--pid", "--mount", f"--wdns={cwd}")
        variables = {**(os.environ if env is None else env), "TMPDIR": str(TEMPORARY)}
        return start(["nsenter", f"--target={self.init}", *entering, "--", *command], variables)

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = Path("/"),
        timeout_s: float = 60,
    ) -> Finished:
        """Run a command to its end, whatever it says."""
        with self.start(*command, env=env, cwd=cwd) as job:
            return job.wait(timeout_s)

    def sh(self, script: str) -> str:
        """Run a line of shell that must succeed; return what it said."""
        done = self.run("sh", "-c", script)
        assert done.code == 0, f"{self.name}: {script}: {done.text}"
        return done.text

    def processes(self) -> list[Process]:
        """What runs on it."""
        return processes_in(self.pids)

    def kill(self) -> None:
        """Take it down at once, as a power cut does; its link goes silent, not closed."""
        self.cut()
        with suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)

    def cut(self) -> None:
        """Cut its link."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put its link back."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def wait_for(self, other: str, *, within_s: float) -> None:
        """Wait until the way to another host is open: bridges and neighbours learn of it late."""
        ends = time.monotonic() + within_s
        while self.run("ssh", "-o", "ConnectTimeout=5", other, "true").code != 0:
            assert time.monotonic() < ends, f"{self.name} has no way to {other}"


@contextmanager
def hosts(count: int, etc: Mapping[str, Path] | None = None) -> Generator[tuple[Host, ...]]:
    """Start hosts ``h1``, ``h2``, ...; at the end nothing of them is left.

    Args:
        count: From 1 to 250.
        etc: Folders that the hosts see as these in ``/etc``, where the machine has such ones too.
    """
    names = [f"h{number}" for number in range(1, count + 1)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
        folder.chmod(0o755)
        bridge = f"{folder.name}-net"
        _add_namespace(stack, bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        addresses = {name: f"192.0.2.{number}" for number, name in enumerate(names, start=1)}
        table = "".join(f"{address} {name}\n" for name, address in addresses.items())
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{table}")
        (folder / "resolv.conf").touch()  # an unknown name is unknown at once
        seen = {
            "hosts": folder / "hosts",
            "resolv.conf": folder / "resolv.conf",
            "ssh": write_secure_shell(folder / "ssh", names, temporary=TEMPORARY),
            **(etc or {}),
        }
        yield tuple(
            _start_host(stack, folder, name, address, seen) for name, address in addresses.items()
        )


def _start_host(
    stack: ExitStack, folder: Path, name: str, address: str, seen: Mapping[str, Path]
) -> Host:
    namespace, bridge = f"{folder.name}-{name}", f"{folder.name}-net"
    _add_namespace(stack, namespace)
    link = ("link", "add", name, "netns", bridge, "type", "veth", "peer", "name", "eth0")
    _ip(*link, "netns", namespace)
    _ip("-n", bridge, "link", "set", name, "master", "br0", "up")
    _ip("-n", namespace, "link", "set", "lo", "up")
    _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", namespace, "link", "set", "eth0", "up")
    for entry, path in seen.items():  # `ip netns exec` binds these over those of /etc
        (NETNS_ETC / namespace / entry).symlink_to(path)
    ready = folder / f"{name}.ready"
    unshare = ("unshare", "--uts", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child")
    script = ("sh", "-c", STARTING, "sh", name, str(ready), str(TEMPORARY))
    job = stack.enter_context(start(["ip", "netns", "exec", namespace, *unshare, *script]))
    job.wait_until(ready.exists, START_TIMEOUT_S, f"{name} was up")
    (init,) = [p.pid for p in all_processes() if p.parent == job.entering.pid]
    host = Host(name, address, namespace, init, pid_namespace(init))
    stack.callback(_bury, host)
    return host


def _bury(host: Host) -> None:
    """Kill a host and wait until its last process has gone."""
    with suppress(ProcessLookupError):
        os.kill(host.init, signal.SIGKILL)
    while host.processes():
        time.sleep(0.05)


def _add_namespace(stack: ExitStack, name: str) -> None:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    etc = NETNS_ETC / name
    etc.mkdir(parents=True)
    stack.callback(shutil.rmtree, etc)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
