"""Which compiled operators of DeepSpeed's a run loads, and whether it can. Compiles nothing.

Torch takes a lock while it compiles or loads one. A process that is killed meanwhile leaves the
lock for ever, and everybody who needs the operator waits for it without an end or a word.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megadga.errors import ConfigError

SHARED_MEMORY = "deepspeed_shm_comm"
"""What ranks on CPUs need."""

_ADAM = ("adam", "adamw")
_DEFAULT_EXTENSIONS = ".cache/torch_extensions"
_POLL_S = 0.5


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


def wait_for_ops(
    names: Sequence[str],
    environment: Mapping[str, str],
    *,
    deadline_s: float,
    tell: Callable[[str], None],
) -> None:
    """Wait until nobody holds a lock on operators.

    Args:
        names: As DeepSpeed names their folders.
        environment: Says where they are kept.
        deadline_s: Seconds to wait at most.
        tell: Takes a line if there is something to wait for.

    Raises:
        ConfigError: If there is a lock at the deadline, with what to do about it.
    """
    ends = time.monotonic() + deadline_s
    if locks := op_locks(names, environment):
        tell(f"waiting for {locks[0]}, while an operator is compiled")
    while locks := op_locks(names, environment):
        if time.monotonic() >= ends:
            raise ConfigError(
                f"{locks[0]}: expected no lock on a compiled operator, found one after "
                f"{deadline_s:g} s; remove it, unless something is being compiled now"
            )
        time.sleep(_POLL_S)


def _found(operator: str, file: str, environment: Mapping[str, str]) -> list[Path]:
    own = environment.get("TORCH_EXTENSIONS_DIR")
    root = Path(own) if own else Path.home() / _DEFAULT_EXTENSIONS
    return sorted(root.glob(f"{operator}/{file}" if own else f"*/{operator}/{file}"))
