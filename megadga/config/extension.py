"""What a package offers that brings a rule of its own: the face of an extension.

Knows no package. Its author needs this module, `Section` of `megadga.config.base` for options,
`Weights` of `megadga.config.weights` for mixtures among them, and the protocol of rules,
`megadga.mixing.scheduler`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, final, runtime_checkable

from pydantic import BaseModel

from megadga.arrays import FloatArray, IntArray
from megadga.config.weights import Weights
from megadga.mixing.scheduler import Scheduler

GROUP = "megadga.schedulers"
"""The group of entry points; the name of each is what ``mixing.type`` says."""

Options = TypeVar("Options", bound=BaseModel)


@final
@dataclass(frozen=True, eq=False)
class RuleContext:
    """What a rule may need to know of the run besides its options.

    Attributes:
        domains: Names of the training domains, ``K`` of them.
        tokens: Training tokens of each, above 0, shape ``(K,)``.
        total_steps: Optimizer steps of the whole run.
        weights: Turns a mixture as it is written, under a key of the options, into a distribution
            of shape ``(K,)``: ``context.weights("initial", options.initial)``. Raises
            ``ConfigError``, with the key's file and line, if it does not name exactly the domains.
    """

    domains: tuple[str, ...]
    tokens: IntArray
    total_steps: int
    weights: Callable[[str, Weights], FloatArray]


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
            ValueError: If the options do not fit the domains or each other; the message is told
                with the place of the section.
        """
        ...
