"""An /etc/ssh with which hosts let each other in, and a stranger nowhere. Starts nothing."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

SERVER = """\
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/key.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxStartups 100:30:200
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
SetEnv TMPDIR={temporary}
"""
CLIENT = """\
Host *
    IdentityFile /etc/ssh/key
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /etc/ssh/known_hosts
    StrictHostKeyChecking yes
"""


def write_secure_shell(folder: Path, names: Sequence[str], *, temporary: Path) -> Path:
    """Write keys and settings of server and client, the same on every host.

    Args:
        folder: To be made.
        names: Of the hosts.
        temporary: A host's own folder, for what its commands keep for themselves.
    """
    folder.mkdir()
    for name in ("key", "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", name]
        subprocess.run(command, cwd=folder, check=True)
    (folder / "sshd_config").write_text(SERVER.format(temporary=temporary))
    (folder / "ssh_config").write_text(CLIENT)
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text("".join(f"{name} {host_key}" for name in names))
    return folder
