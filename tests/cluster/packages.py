"""What a machine must have for clusters to be built on it. Installs nothing."""

import os
import shutil
import subprocess
from pathlib import Path

HOSTS = {"iproute2": "ip", "openssh-server": "sshd", "openssh-client": "ssh"}
"""Debian's packages and a command of each: hosts."""
SLURM = {
    "munge": "munged",
    "slurm-client": "sbatch",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-wlm-basic-plugins": "slurmd",
}
"""The same: SLURM on them."""
PDSH = {"pdsh": "pdsh"}
"""The same: DeepSpeed's own launcher."""
COVERED = ("/etc/hosts", "/etc/resolv.conf")
"""Files of the machine over which hosts see their own."""


def why_not(packages: dict[str, str]) -> str:
    """Return what keeps hosts with these packages from being built here; empty: nothing."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if files := [name for name in COVERED if not Path(name).exists()]:
        return f"needs {' and '.join(files)}, over which hosts see their own"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    needed = HOSTS | packages
    missing = [name for name, command in needed.items() if not shutil.which(command, path=path)]
    if missing:
        return f"needs Debian's packages {' '.join(missing)}: make test-cluster installs them"
    probe = ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""
