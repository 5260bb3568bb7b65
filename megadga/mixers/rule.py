"""What a mixing rule is to a run: the keys of its section, and the scheduler made from them.

A module of this package with ``RULES`` brings built-in rules, as an entry point brings those of
other packages (`megadga.mixers.extension`): options and ``make``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar, final, get_args

import numpy as np

import megadga.mixers
from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.mixers.base import AlignmentNeeds, Scheduler, TargetNeeds
from megadga.mixers.probing import DIRECTIONAL, Probe
from megadga.mixers.weights import MatchedWeights, Weights
from megadga.section import ConfigIssue, KeyPath, Section, dotted


@final
@dataclass(frozen=True)
class WeightHistory:
    """How a run's averaged weights moved.

    Attributes:
        names: The domains, ``K`` of them; or basis distributions, where the metrics have only
            those.
        steps: Optimizer steps after which the weights were updated, 0 for the initial weights,
            shape ``(updates,)``.
        weights: Averaged weights after each update, shape ``(updates, K)``.
    """

    names: tuple[str, ...]
    steps: IntArray
    weights: FloatArray


def _one_set() -> FloatArray:
    return np.ones(1)


def _no_history(path: Path) -> WeightHistory:
    raise ConfigError(f"{path}: expected a context that reads other runs, found one without")


def _without_places(issues: Sequence[ConfigIssue]) -> ConfigError:
    lines = (f"{dotted(i.path)}: expected {i.expected}, found {i.found}" for i in issues)
    return ConfigError("\n".join(lines))


@final
@dataclass(frozen=True, eq=False)
class RuleContext:
    """What a rule may need to know of the run besides its options.

    Attributes:
        domains: Names of the training domains, ``K`` of them; of the basis distributions, for a
            rule over a basis.
        tokens: Training tokens of each, above 0, shape ``(K,)``; 0 for basis distributions.
        total_steps: Total optimizer steps of the run.
        epochs_per_step: Epochs of each domain that a step takes at weight 1, shape ``(K,)``; None
            for basis distributions.
        weights: Turns a mixture as it is written, under a key of the options, into a distribution
            of shape ``(K,)``: ``context.weights("initial", options.initial)``. Raises
            ``ConfigError``, with the key's file and line, if it does not name exactly the domains.
        noun: What the rule weights, in messages: domains, or basis distributions.
        excluded: Names of the domains that are too short for a sequence.
        importance: Of the specific sets, finite and above 0, shape ``(M,)``.
        error: Makes the error that names keys of the run, with file and line.
        read_history: Reads the weights in another run's ``metrics.jsonl``.
    """

    domains: tuple[str, ...]
    tokens: IntArray
    total_steps: int
    weights: Callable[[str | KeyPath, Weights], FloatArray]
    noun: str = "domains"
    excluded: frozenset[str] = frozenset()
    epochs_per_step: FloatArray | None = None
    importance: FloatArray = field(default_factory=_one_set)
    error: Callable[[Sequence[ConfigIssue]], ConfigError] = _without_places
    read_history: Callable[[Path], WeightHistory] = _no_history

    def invalid(self, *path: str | int, expected: str, found: str) -> ConfigError:
        """Return the error that says what is wrong at a key of the section."""
        return self.error([ConfigIssue(("mixing", *path), expected, found)])


class RuleOptions(Section):
    """The `mixing` section of a rule: its keys, and what the run around it reads from them.

    The keys ``interval`` and ``probe`` mean the same in every rule that has them. All else is what
    a rule says by overriding a property or method.
    """

    @property
    def update_interval(self) -> int | None:
        """Optimizer steps between updates of the weights; None: they never move."""
        return getattr(self, "interval", None)

    @property
    def update_overhead(self) -> float:
        """Share of training that updates may cost, where their interval is not given."""
        return 0.01

    @property
    def alignment_probe(self) -> Probe | None:
        """How alignments are measured; None: the section does not say."""
        return getattr(self, "probe", None)

    def default_probe(self, needs: AlignmentNeeds | TargetNeeds, *, in_flight: bool) -> Probe:  # noqa: ARG002
        """Return how alignments are measured where the section does not say.

        Args:
            needs: What the rule reads of them.
            in_flight: Whether the run's batches can be measured while they are trained.
        """
        return DIRECTIONAL

    @property
    def basis_file(self) -> Path | None:
        """File of the basis distributions that are weighted; None: domains are."""
        return None

    @property
    def resampled_uniformly(self) -> float | None:
        """Share of windows that are drawn alike where a domain's windows are drawn by their norms.

        In ``(0, 1]``; None: every epoch has each window once.
        """
        return None

    @property
    def least_effective_domains(self) -> float:
        """Effective domains below which an event is logged; 0: never."""
        return 0.0

    @property
    def aligns_to_specific(self) -> bool:
        """Whether the specific sets decide the weights."""
        return False

    @property
    def matches_specific(self) -> bool:
        """Whether weights that the section has are matched to the specific sets."""
        return any(isinstance(part, MatchedWeights) for part in (self, *dict(self).values()))

    @property
    def reads_evaluations(self) -> bool:
        """Whether validation losses decide the weights."""
        return False

    def find_inconsistencies(self, specific: Sequence[str] | None) -> Iterator[ConfigIssue]:  # noqa: ARG002
        """Yield what the section says that cannot be done, or not the way that it says.

        Args:
            specific: Names of the specific sets; None: that section is invalid itself.
        """
        yield from ()

    def find_warnings(self, steps: int) -> Iterator[ConfigIssue]:  # noqa: ARG002
        """Yield what is possible and hardly meant in a run of so many optimizer steps."""
        yield from ()

    def files(self) -> Mapping[KeyPath, Path]:
        """Return the files that the rule reads, by their keys in the section."""
        return {}

    def digests(self) -> Mapping[str, str]:
        """Return digests of the files' content, by the names that checkpoints know them by.

        Raises:
            ConfigError: If a file cannot be read.
        """
        return {}


Options = TypeVar("Options", bound=RuleOptions)


@final
@dataclass(frozen=True)
class Rule(Generic[Options]):
    """A built-in rule, as `megadga.mixers.extension.Extension` describes those of other packages.

    Attributes:
        options: Its section.
        make: From the section to the scheduler.
    """

    options: type[Options]
    make: Callable[[Options, RuleContext], Scheduler]


@cache
def built_in_rules() -> Mapping[str, Rule[Any]]:
    """Return every rule of this package, by what ``mixing.type`` says, in alphabetical order."""
    modules = [
        import_module(f"{megadga.mixers.__name__}.{module.name}")
        for module in iter_modules(megadga.mixers.__path__)
    ]
    rules: list[Rule[Any]] = [rule for module in modules for rule in getattr(module, "RULES", ())]
    by_type = {get_args(r.options.model_fields["type"].annotation)[0]: r for r in rules}
    return dict(sorted(by_type.items(), key=lambda item: item[0]))


def make_scheduler(options: RuleOptions, context: RuleContext) -> Scheduler:
    """Return the scheduler of a built-in rule.

    Raises:
        ConfigError: If the options do not fit the domains.
    """
    rule = next(rule for rule in built_in_rules().values() if type(options) is rule.options)
    return rule.make(options, context)
