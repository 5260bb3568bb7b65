"""What this machine has for ranks: devices, a port, ways to others."""

import errno
import os
import socket
from pathlib import Path

from megadga.cluster.interfaces import interface_towards

_DEVICE_NODES = ("nvidia[0-9]*", "kfd", "dri/renderD*", "accel/accel*", "xpu*", "davinci[0-9]*")
"""What there is of in /dev where torch may find accelerators."""


def count_devices() -> tuple[int, str]:
    """Return for how many ranks there is room, and of what: ``accelerators`` or ``cores``.

    Torch is imported, which takes seconds, only where it may find accelerators.
    """
    if any(next(Path("/dev").glob(pattern), None) for pattern in _DEVICE_NODES):
        import torch  # noqa: PLC0415

        if (count := torch.accelerator.device_count()) > 0:
            return count, "accelerators"
    return len(os.sched_getaffinity(0)), "cores"


def port_error(port: int) -> str:
    """Return why nothing could listen on a port of this machine; empty: it could."""
    with socket.socket() as listening:
        # As torch does: a connection that is only just closed is in nobody's way.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
            listening.listen()
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            return "is in use" if in_use else str(error.strerror).lower()
    return ""


def address_of(name: str) -> str:
    """Return what a host's name stands for here; empty: nothing."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""


def interface_to(name: str) -> str:
    """Return which interface leads to a host; empty: none that is up."""
    return interface_towards(name) or ""
