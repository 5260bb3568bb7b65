"""Protocol between a training loop and its plugins."""

from collections.abc import Mapping
from typing import Any, Protocol

Metrics = dict[str, dict[str, Any]]
"""Records to log for a step, by type: ``train``, ``update``, ``evaluation``, ``event``."""


class Plugin(Protocol):
    """Called by the training loop after each optimizer step; its state is in checkpoints."""

    @property
    def name(self) -> str:
        """The key of this plugin's state in a checkpoint."""
        ...

    def after_step(self, step: int) -> Metrics:
        """Act after optimizer step ``step`` (from 1). Collective: call it on every rank."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state, equal on every rank: numbers, strings, lists, CPU tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; raise ``ResumeError`` if it belongs to another run."""
        ...
