"""What a training loop asks of its plugins."""

from collections.abc import Mapping
from typing import Any, Protocol

Metrics = dict[str, dict[str, Any]]
"""What to log of a step, by record type: ``train``, ``update``, ``evaluation``, ``event``."""


class Plugin(Protocol):
    """Something a training loop calls after each optimizer step and saves with its checkpoints."""

    @property
    def name(self) -> str:
        """The key of this plugin's state in a checkpoint."""
        ...

    def after_step(self, step: int) -> Metrics:
        """Do what is due after optimizer step ``step`` (from 1). Collective: every rank calls."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state, equal on every rank: numbers, strings, lists, CPU tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; raise ``ResumeError`` if it belongs to another run."""
        ...
