"""Schedulers from other packages: the interface, and the entry points that name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import isclass
from typing import Any, Protocol, TypeVar, cast, final, runtime_checkable

from pydantic import BaseModel

from megadga.mixers.base import Scheduler
from megadga.mixers.rule import RuleContext

GROUP = "megadga.schedulers"
"""The group of entry points; the name of each is what ``mixing.type`` says."""


Options = TypeVar("Options", bound=BaseModel)


@runtime_checkable
class Extension(Protocol[Options]):
    """What an entry point of the group ``megadga.schedulers`` names: an object, or a module."""

    @property
    def options(self) -> type[Options]:
        """The model of the rule's own keys beside ``type``, ``interval`` and ``probe``.

        Whatever it says itself, a run refuses keys that it does not have, and numbers that are
        not finite. Docstrings of fields are what ``megadga describe`` prints, if the model is a
        `Section`.
        """
        ...

    def make(self, options: Options, context: RuleContext, /) -> Scheduler:
        """Return the rule over the run's domains.

        Args:
            options: As the run has them, valid.
            context: What else the rule may need.

        Raises:
            ValueError: If the options do not fit the domains or each other; the error shows the
                message with the section's file and line.
        """
        ...


class BrokenExtensionError(Exception):
    """An entry point that leads to no extension; the message says what was found."""


@final
@dataclass(frozen=True)
class Installed:
    """An entry point of a distribution.

    Attributes:
        name: What ``mixing.type`` says.
        distribution: Name and version, as ``megadga-annealed 0.1.0``.
        entry_point: Module and object, as ``megadga_annealed:EXTENSION``.
    """

    name: str
    distribution: str
    entry_point: str

    def __str__(self) -> str:
        return f"{self.name} = {self.entry_point} of {self.distribution}"

    def load(self) -> Extension[Any]:
        """Import the extension.

        Raises:
            BrokenExtensionError: If it cannot be imported, or is none; one line.
        """
        try:
            found: object = EntryPoint(self.name, self.entry_point, GROUP).load()
        except Exception as error:  # noqa: BLE001  (somebody else's module may raise anything)
            text = " ".join(str(error).split())
            raise BrokenExtensionError(f"{type(error).__name__}: {text}") from None
        if not isinstance(found, Extension):
            raise BrokenExtensionError(f"{type(found).__name__} without options and make")
        extension = cast("Extension[Any]", found)
        if not isclass(extension.options) or not issubclass(extension.options, BaseModel):
            raise BrokenExtensionError(
                f"options that are no pydantic model: {extension.options!r}"
            )
        return extension


def installed_extensions() -> Sequence[Installed]:
    """Return what the distributions on this interpreter's path offer, by name."""
    found = {
        Installed(
            point.name,
            "an unnamed distribution"
            if point.dist is None
            else f"{point.dist.name} {point.dist.version}",
            point.value,
        )
        for point in entry_points(group=GROUP)
    }
    return sorted(found, key=lambda each: (each.name, each.distribution, each.entry_point))
