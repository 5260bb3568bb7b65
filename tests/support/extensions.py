"""Extensions as they lie on a path when they are installed."""

from pathlib import Path

MODULE = '''\
"""A rule that stays where it begins, and observes what it is told to."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from megadga.section import PositiveFloat, Section
from megadga.mixers.weights import Weights
from megadga.mixers.base import AlignmentNeeds, LossNeeds, MixtureState, StepNeeds
from megadga.mixers.base import Mixtures

NEEDS = {
    "nothing": None,
    "alignments": AlignmentNeeds(),
    "norms": AlignmentNeeds(norms=True),
    "preconditioned": AlignmentNeeds(preconditioned=True),
    "domains": AlignmentNeeds(target="domains"),
    "losses": LossNeeds(),
    "reference": LossNeeds(reference=True),
    "step": StepNeeds(),
}


class Inner(Section):
    """A part."""

    size: PositiveFloat
    """A size, above 0."""


class Options(Section):
    """Stays."""

    initial: Weights = "uniform"
    """Weights."""
    observes: str = "step"
    """A kind of needs."""
    inner: Inner | None = None
    """A part; null: none."""
    lost: int = 0
    """Domains that the rule forgets."""


@dataclass(frozen=True)
class Rule:
    weights: Any
    observes: Any

    def init(self):
        return MixtureState(self.weights, self.weights, 0, 0)

    def update(self, state, observed):
        return replace(state, num_updates=state.num_updates + 1)


options = Options


def make(chosen, context):
    assert context.domains == ("d0", "d1")
    weights = context.weights("initial", chosen.initial)
    kept = weights[: weights.size - chosen.lost]
    return Rule(kept / kept.sum(), NEEDS[chosen.observes])
'''


def write_extension(
    folder: Path,
    *,
    name: str = "staying",
    module: str,
    text: str = MODULE,
    attribute: str = "",
    distribution: str = "some-rules",
    version: str = "1.0",
) -> Path:
    """Write a module, and what announces it as an extension; return the folder to import from.

    Args:
        folder: Created if need be.
        name: What a run's file calls the rule.
        module: A name that no other module of the process has.
        text: The module's.
        attribute: The object in it that is named; empty: the module itself.
        distribution: Name of the package.
        version: Its version.
    """
    information = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    target = f"{module}:{attribute}" if attribute else module
    (information / "entry_points.txt").write_text(f"[megadga.schedulers]\n{name} = {target}\n")
    (folder / f"{module}.py").write_text(text)
    return folder
