"""Which rank this process is, from the environment of its launcher, and its network interface."""

import ipaddress
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil

from megadga.errors import ConfigError

EXPECTED_RANKS = "MEGADGA_RANKS"
"""Variable in which a launcher says how many ranks it was asked for."""


DEADLINE = "MEGADGA_DEADLINE_S"
"""Variable with the seconds that a rank waits for the others before it gives up."""


DEFAULT_DEADLINE_S = 1800.0


DEFAULT_PORT = 29500


_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class RankEnvironment:
    """One process among those that train together.

    Attributes:
        rank: Its number, in [0, ``world_size``).
        local_rank: Its number among those on the same machine, from 0.
        world_size: How many there are, at least 1.
        master_address: Where rank 0 listens.
        master_port: On which port, in [0, 65535]; 0: any, as nobody else joins.
        launcher: What started it: ``torchrun``, ``deepspeed``, ``environment`` (another that
            sets RANK), ``openmpi``, ``pmi``, ``slurm``, or ``none``.
    """

    rank: int
    local_rank: int
    world_size: int
    master_address: str
    master_port: int
    launcher: str

    def variables(self) -> dict[str, str]:
        """Return what torch and DeepSpeed read."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }


@dataclass(frozen=True)
class _Names:
    """Where one kind of launcher says what.

    Attributes:
        launcher: Its name.
        present: The variable that is set if the launcher is at work.
        rank: Rank.
        local_rank: Rank among those of the machine.
        size: Number of ranks.
        local_size: Number of ranks on this machine, if it says so.
        nodes: Number of machines, if it says so instead.
    """

    launcher: str
    present: str
    rank: str
    local_rank: str
    size: str
    local_size: str | None = None
    nodes: str | None = None


_TORCH = _Names("environment", "RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE")


_PMI = _Names(
    "pmi", "PMI_RANK", "PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE", local_size="MPI_LOCALNRANKS"
)


_LAUNCHERS = (
    # First, as these may have been started by one of the others and speak for themselves.
    _TORCH,
    _Names(
        "openmpi",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_SIZE",
        local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    # srun sets PMI_RANK as well, and not this one: then SLURM's own variables say more.
    replace(_PMI, present="MPI_LOCALRANKID"),
    # The variables of a step: a batch script has SLURM_NTASKS too, and is one process.
    _Names(
        "slurm",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_STEP_NUM_TASKS",
        nodes="SLURM_STEP_NUM_NODES",
    ),
    _PMI,  # to say what is missing
)


def read_ranks(environment: Mapping[str, str]) -> RankEnvironment:
    """Return which rank an environment makes of this process; without a launcher, the only one.

    Raises:
        ConfigError: If variables are missing, no numbers or contradict each other, or if there are
            other ranks than ``MEGADGA_RANKS``; the message names them.
    """
    names = next((names for names in _LAUNCHERS if names.present in environment), None)
    if names is None:
        found = RankEnvironment(0, 0, 1, _LOOPBACK, 0, "none")
    else:
        found = _started(names, environment)
    _check_expected(found, names, environment)
    return found


def rank_for_messages(environment: Mapping[str, str]) -> int:
    """Return the rank for use in messages: 0 if it is unknown or invalid."""
    names = next((names for names in _LAUNCHERS if names.present in environment), None)
    text = "0" if names is None else environment.get(names.rank, "0")
    return int(text) if text.isascii() and text.isdecimal() else 0


def read_deadline_s(environment: Mapping[str, str]) -> float:
    """Return the time-out of collectives, in seconds, above 0.

    Raises:
        ConfigError: If ``MEGADGA_DEADLINE_S`` is not such a number.
    """
    text = environment.get(DEADLINE, str(DEFAULT_DEADLINE_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise ConfigError(f"{DEADLINE}: expected a number of seconds above 0, found {text!r}")
    return seconds


_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def check_visible_devices(
    local_rank: int, num_visible: int, environment: Mapping[str, str]
) -> None:
    """Refuse a rank without a device of its own: torch would say "invalid device ordinal".

    Args:
        local_rank: The rank's number on its machine, which is that of its device.
        num_visible: Devices that this process may use, at least 1.
        environment: Its variables.

    Raises:
        ConfigError: If there is no such device; the message names the variables that hide some.
    """
    if local_rank < num_visible:
        return
    named = [f"{name}={environment[name]}" for name in _VISIBLE if name in environment]
    hidden = ", ".join(named) or "no variable hides any"
    raise ConfigError(
        "LOCAL_RANK: expected a device for each rank of this machine, found "
        f"{num_visible} visible to rank {local_rank} ({hidden}): start no more ranks than "
        "devices, and let each see all of them (srun without --gpus-per-task and --gpu-bind)"
    )


def _started(names: _Names, environment: Mapping[str, str]) -> RankEnvironment:
    rank = _number(names.rank, environment)
    size = _number(names.size, environment)
    local_rank = _number(names.local_rank, environment)
    if not rank < size:
        raise ConfigError(f"{names.rank}: expected a rank below {names.size}={size}, found {rank}")
    address, port = _master(names, size, environment)
    return RankEnvironment(rank, local_rank, size, address, port, _launcher(names, environment))


def _master(names: _Names, size: int, environment: Mapping[str, str]) -> tuple[str, int]:
    address = environment.get("MASTER_ADDR")
    if not address:
        if not _on_one_machine(names, size, environment):
            raise ConfigError(
                f"MASTER_ADDR: expected the address of rank 0's machine beside {names.rank}, as "
                "there may be several machines; found nothing"
            )
        address = _LOOPBACK
    return address, master_port(environment)


def master_port(environment: Mapping[str, str]) -> int:
    """Return the port on which rank 0 listens, in [0, 65535].

    Raises:
        ConfigError: If ``MASTER_PORT`` is no port.
    """
    port = _number("MASTER_PORT", {"MASTER_PORT": str(DEFAULT_PORT), **environment})
    if port > 65535:
        raise ConfigError(f"MASTER_PORT: expected a port in [0, 65535], found {port}")
    return port


def _on_one_machine(names: _Names, size: int, environment: Mapping[str, str]) -> bool:
    if size == 1:
        return True
    if names.local_size is not None and names.local_size in environment:
        return _number(names.local_size, environment) == size
    if names.nodes is not None and names.nodes in environment:
        return _number(names.nodes, environment) == 1
    return False


def _launcher(names: _Names, environment: Mapping[str, str]) -> str:
    if names is not _TORCH:
        return names.launcher
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun"
    return "deepspeed" if "CROSS_RANK" in environment else names.launcher


def _check_expected(
    found: RankEnvironment, names: _Names | None, environment: Mapping[str, str]
) -> None:
    if EXPECTED_RANKS not in environment:
        return
    expected = _number(EXPECTED_RANKS, environment)
    if expected != found.world_size:
        where = "no variable of a launcher" if names is None else f"{names.size}"
        raise ConfigError(
            f"{EXPECTED_RANKS}: expected {expected} ranks, found {found.world_size} ({where}): "
            "is the launcher of another kind or library than the one that was meant?"
        )


def _number(name: str, environment: Mapping[str, str]) -> int:
    text = environment.get(name)
    if text is None or not (text.isascii() and text.isdecimal()):
        found = "nothing" if text is None else repr(text)
        raise ConfigError(f"{name}: expected a whole number from 0, found {found}")
    return int(text)


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
