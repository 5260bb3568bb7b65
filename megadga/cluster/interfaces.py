"""Which network interface a rank should talk over. Knows addresses, and no ranks."""

import ipaddress
import socket
from collections.abc import Mapping

import psutil

_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_INTERNET = (socket.AF_INET, socket.AF_INET6)


def interface_variables(
    environment: Mapping[str, str], *, master_address: str, alone: bool
) -> dict[str, str]:
    """Return what gloo and NCCL are to be told: the interface that reaches rank 0's machine.

    gloo would take the one that this machine's own name stands for, which is often loopback, or
    none at all. What the user has set stays.

    Args:
        environment: Where the user may have set it.
        master_address: A name or an address.
        alone: All ranks are on this machine.
    """
    missing = [name for name in _VARIABLES if not environment.get(name)]
    interface = interface_towards(master_address) if missing else None
    if interface is None or (_is_loopback(interface) and not alone):
        return {}  # a name that means loopback on its own machine says nothing about the network
    return dict.fromkeys(missing, interface)


def interface_towards(address: str) -> str | None:
    """Return the name of the interface that packets to an address leave by; None: unknown.

    Nothing is sent: the kernel is asked for its route.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as route:
            route.connect(target)
            own: str = route.getsockname()[0]
    except OSError:
        return None  # torch will say more about an address that cannot be reached
    return _interface_of(own)


def _interface_of(own: str) -> str | None:
    wanted = ipaddress.ip_address(own.partition("%")[0])
    for name, addresses in psutil.net_if_addrs().items():
        numbers = [each.address for each in addresses if each.family in _INTERNET]
        if any(ipaddress.ip_address(number.partition("%")[0]) == wanted for number in numbers):
            return name
    return None


def _is_loopback(interface: str) -> bool:
    return any(
        each.family == socket.AF_INET and ipaddress.ip_address(each.address).is_loopback
        for each in psutil.net_if_addrs().get(interface, [])
    )
