"""Distribution reweighting: a rule for a few mixtures of many domains. Knows no gradient."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from megadga.arrays import FloatArray
from megadga.mixing.mixtures import Mixtures
from megadga.mixing.scheduler import (
    AlignmentNeeds,
    MixtureState,
    Observed,
    Scheduler,
    TargetNeeds,
)

WEIGHTS = "basis_weights"
AVERAGED_WEIGHTS = "basis_averaged_weights"
_PREFIX = "rule_"


@final
@dataclass(frozen=True, eq=False)
class OverBasis:
    """A rule that weights basis distributions (arXiv 2410.02498, distribution reweighting).

    Where domains are too many to measure, the rule lives on ``n`` distributions ``P_j`` over them.
    It is shown the alignments of sequences that are drawn from each ``P_j``, moves its ``n``
    weights ``w`` by those, and the domains get

        alpha = w P,    alpha_avg = w_avg P

    With the identity for P this is the rule itself, to the bit. The rule's own weights, and what
    it remembers, are in the state's memory.

    Attributes:
        rule: Moves the weights of the basis distributions, ``n`` of them.
        mixtures: P, of shape ``(n, K)``.

    Raises:
        ValueError: If the rule observes no alignments, or has another number of weights.
    """

    rule: Scheduler
    mixtures: Mixtures

    def __post_init__(self) -> None:
        self._needs()
        expected = (len(self.mixtures.names),)
        if (found := self.rule.init().weights.shape) != expected:
            raise ValueError(f"rule: expected weights of shape {expected}, found {found}")

    @property
    def observes(self) -> AlignmentNeeds | TargetNeeds:
        """What the rule needs, of mixtures of the domains."""
        return replace(self._needs(), mixtures=self.mixtures)

    def init(self) -> MixtureState:
        """Return the domains' weights by the rule's first ones."""
        return self._mixed(self.rule.init())

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement of the basis distributions.

        Args:
            state: What `init` or the last update returned.
            observed: What the rule asked for, of ``n`` mixtures in the domains' place.

        Raises:
            ValueError: As the rule does.
        """
        return self._mixed(self.rule.update(rule_state(state), observed))

    def _needs(self) -> AlignmentNeeds | TargetNeeds:
        needs = self.rule.observes
        if isinstance(needs, AlignmentNeeds | TargetNeeds) and needs.mixtures is None:
            return needs
        raise ValueError(f"rule: expected one that observes alignments of domains, found {needs}")

    def _mixed(self, state: MixtureState) -> MixtureState:
        return replace(
            state,
            weights=self.mixtures.mix(state.weights),
            averaged_weights=self.mixtures.mix(state.averaged_weights),
            memory={
                WEIGHTS: state.weights,
                AVERAGED_WEIGHTS: state.averaged_weights,
                **{_PREFIX + name: array for name, array in state.memory.items()},
            },
        )


def basis_weights(memory: Mapping[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return the rule's weights and their average from a state's memory, both ``(n,)``."""
    return memory[WEIGHTS], memory[AVERAGED_WEIGHTS]


def rule_state(state: MixtureState) -> MixtureState:
    """Return the state of the rule inside `OverBasis`, over the basis distributions."""
    weights, averaged = basis_weights(state.memory)
    return replace(
        state,
        weights=weights,
        averaged_weights=averaged,
        memory={
            name.removeprefix(_PREFIX): array
            for name, array in state.memory.items()
            if name.startswith(_PREFIX)
        },
    )
