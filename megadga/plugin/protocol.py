"""Protocol between a training loop and its plugins, and records as other loggers take them."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Protocol, cast

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


MAX_DOMAINS = 4096
"""Maximum number of domains that are logged individually if there is a basis."""


_OF_DOMAINS = ("weights", "averaged_weights", "epochs", "domain_windows")
"""Keys of a record whose values are by domain, where those of a basis are beside them."""


def bounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of weights without those of each domain, if they are too many.

    With a basis, that is more than ``MAX_DOMAINS``: they follow from the basis' weights.
    """
    has_basis = "basis_averaged_weights" in record
    if has_basis and len(record.get("averaged_weights", ())) > MAX_DOMAINS:
        return {key: value for key, value in record.items() if key not in _OF_DOMAINS}
    return dict(record)


def flatten(metrics: Metrics, *, prefix: str) -> dict[str, Any]:
    """Return the records of a step as flat values, for loggers that take no others.

    Args:
        metrics: Of a plugin's ``after_step``.
        prefix: First part of each key.

    Returns:
        For example ``{"mixture/weights/d0": 0.5}``. Lists become text; None is left out, and
        weights of each domain where a basis has more than ``MAX_DOMAINS`` of them.
    """
    records = chain.from_iterable(_leaves(prefix, bounded(each)) for each in metrics.values())
    return {key: value for key, value in records if value is not None}


def _leaves(key: str, record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings, with a key that joins theirs."""
    for name, value in record.items():
        match value:
            case dict():
                yield from _leaves(f"{key}/{name}", cast("dict[str, Any]", value))
            case list():
                yield f"{key}/{name}", ", ".join(map(str, cast("list[Any]", value)))
            case _:
                yield f"{key}/{name}", value
