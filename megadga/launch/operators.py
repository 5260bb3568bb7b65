"""Which compiled operators of DeepSpeed's a run loads, and whether it can. Compiles nothing.

Torch takes a lock while it compiles or loads one. A process that is killed meanwhile leaves the
lock for ever, and everybody who needs the operator waits for it without an end or a word. So does
one that is ended by force, unless whoever ends it removes the lock.
"""

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from megadga.errors import ConfigError

SHARED_MEMORY = "deepspeed_shm_comm"
"""What ranks on CPUs need."""


_ADAM = ("adam", "adamw")


_DEFAULT_EXTENSIONS = ".cache/torch_extensions"


_POLL_S = 0.5


LOADING_S = 3.0
"""Seconds in which any process has loaded an operator that is compiled."""
_ABANDONED_S = 300.0
"""Age from which a lock that no process here holds was left behind: compiling takes a minute."""


_REMEDY = (
    "no process of this machine holds it, so unless another machine compiles there it was left by "
    f"one that was killed, and is removed {_ABANDONED_S:g} s after it was made, or now"
)


def needed_ops(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the operators of a run's optimizer, as DeepSpeed names their folders.

    Args:
        settings: DeepSpeed's own, of the run.
    """
    optimizer = settings.get("optimizer", {})
    if optimizer.get("type", "").lower() not in _ADAM:
        return ()
    if optimizer.get("params", {}).get("torch_adam", False):
        return ()
    offload = settings.get("zero_optimization", {}).get("offload_optimizer", {})
    return ("cpu_adam",) if offload.get("device") == "cpu" else ("fused_adam",)


def missing_ops(names: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return which operators DeepSpeed will have to compile at first use."""
    return tuple(name for name in names if not _found(name, f"{name}.so", environment))


def op_locks(names: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return paths of locks on operators: ranks would wait until whoever holds them is done."""
    found = (path for name in names for path in _found(name, "lock", environment))
    return tuple(map(str, found))


def lasting_locks(
    names: Sequence[str], environment: Mapping[str, str], *, over_s: float
) -> tuple[str, ...]:
    """Return paths of locks on operators that are still there some seconds later.

    A process takes such a lock for a tenth of a second, too, whenever it loads an operator that is
    compiled.

    Args:
        names: As DeepSpeed names their folders.
        environment: Says where they are kept.
        over_s: Seconds to look for at most, at least 0.
    """
    ends = time.monotonic() + over_s
    lasting = op_locks(names, environment)
    while lasting and time.monotonic() < ends:
        time.sleep(_POLL_S)
        present = op_locks(names, environment)
        lasting = tuple(lock for lock in lasting if lock in present)
    return lasting


def wait_for_ops(
    names: Sequence[str],
    environment: Mapping[str, str],
    *,
    deadline_s: float,
    tell: Callable[[str], None],
) -> None:
    """Wait until nobody holds a lock on operators.

    A lock of this user's that is old, and that no process of this machine holds, is removed: who
    took it was killed, together with the launcher that would have removed it.

    Args:
        names: As DeepSpeed names their folders.
        environment: Says where they are kept.
        deadline_s: Seconds to wait at most.
        tell: Takes a line if a lock is held for longer than loading takes.

    Raises:
        ConfigError: If there is a lock at the deadline, with what to do about it.
    """
    ends = time.monotonic() + deadline_s
    if locks := lasting_locks(names, environment, over_s=min(LOADING_S, deadline_s)):
        held = Path(locks[0]).resolve() in open_files()
        remedy = "" if held else f"; {_REMEDY}: rm {shlex.quote(locks[0])}"
        tell(
            f"waiting for {locks[0]}, at most {deadline_s:g} s, while an operator is compiled"
            f"{remedy}"
        )
    while locks := op_locks(names, environment):
        for lock in map(Path, locks):
            if _is_abandoned(lock):
                lock.unlink(missing_ok=True)
                tell(f"removed {lock}, which a process that was killed has left")
        if time.monotonic() >= ends:
            raise ConfigError(
                f"{locks[0]}: expected no lock on a compiled operator, found one after "
                f"{deadline_s:g} s; remove it, unless something is being compiled now: "
                f"rm {shlex.quote(locks[0])}"
            )
        time.sleep(_POLL_S)


def _is_abandoned(lock: Path) -> bool:
    try:
        status = lock.stat()
    except FileNotFoundError:
        return False
    is_old = time.time() - status.st_mtime > _ABANDONED_S
    return is_old and status.st_uid == os.geteuid() and lock.resolve() not in open_files()


def remove_own_locks(environment: Mapping[str, str]) -> None:
    """Remove the locks that this process holds, as it ends before it can let go of them."""
    for lock in set(_all_locks(environment)) & open_files("self"):
        with suppress(OSError):
            lock.unlink()


def remove_abandoned_locks(environment: Mapping[str, str], *, since: float) -> tuple[Path, ...]:
    """Remove locks that processes of this machine have left behind; return which.

    Args:
        environment: Says where operators are kept.
        since: Seconds since the epoch. Older locks stay, as do those of another user's.
    """
    removed: list[Path] = []
    held = open_files()
    for lock in _all_locks(environment):
        with suppress(OSError):
            status = lock.stat()
            if status.st_mtime >= since and status.st_uid == os.geteuid() and lock not in held:
                lock.unlink()
                removed.append(lock)
    return tuple(removed)


def open_files(process: str = "[0-9]*") -> set[Path]:
    """Return files that processes of this machine have open, as far as this one may know.

    Who takes a lock has it open until it lets go of it.

    Args:
        process: A number, ``self``, or a pattern.
    """
    found: set[Path] = set()
    for link in Path("/proc").glob(f"{process}/fd/*"):
        with suppress(OSError):  # it has ended or closed the file meanwhile, or is another user's
            found.add(link.readlink())
    return found


def _all_locks(environment: Mapping[str, str]) -> list[Path]:
    return [lock.resolve() for lock in _found("*", "lock", environment)]


def _found(operator: str, file: str, environment: Mapping[str, str]) -> list[Path]:
    own = environment.get("TORCH_EXTENSIONS_DIR")
    root = Path(own) if own else Path.home() / _DEFAULT_EXTENSIONS
    return sorted(root.glob(f"{operator}/{file}" if own else f"*/{operator}/{file}"))
