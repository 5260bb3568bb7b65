"""Which compiled operators DeepSpeed will load for its settings. Compiles nothing."""

from collections.abc import Mapping
from typing import Any

_ADAM = ("adam", "adamw")


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
