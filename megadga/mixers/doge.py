"""DoGE (arXiv 2310.15393): weight for domains that agree with the others or a target."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.base import (
    AlignmentNeeds,
    Alignments,
    MixtureState,
    Observed,
    check_domains,
    first_average,
    next_average,
    skip_update,
)
from megadga.mixers.carrying import MixtureChange, carry
from megadga.mixers.probing import (
    DIRECTIONAL,
    InFlight,
    Probe,
    find_direction_inconsistencies,
    unusable_probe,
)
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.simplex import exponentiated_step
from megadga.mixers.weights import Weights
from megadga.section import ConfigIssue, PositiveFloat, PositiveInt


class DogeOptions(RuleOptions):
    """DoGE (arXiv 2310.15393): domains that agree with the others, or a target, get weight."""

    type: Literal["doge"]
    """How the domains' weights are set."""
    interval: PositiveInt
    """Optimizer steps between updates of the weights, at least 1."""
    step_size: PositiveFloat
    """Mirror-descent step (eta / mu), above 0; the paper's 5e-4 and 0.05 give 0.01."""
    target: Literal["domains", "specific"] = "domains"
    """Whose gradient the domains' are compared with; domains: their sum, on the same sequences;
    specific: the specific set's."""
    max_score: PositiveFloat = 5.0
    """Largest score of a domain, above 0, in units of the domains' mean gradient norm."""
    initial: Weights = "uniform"
    """Weights at step 0, written as the weights of type static."""
    probe: Probe = DIRECTIONAL
    """How alignments are measured and on how many sequences: type directional or sharded. For the
    target domains, specific_sequences is not read."""

    @property
    def aligns_to_specific(self) -> bool:
        """Whether the target is a specific set."""
        return self.target == "specific"

    def find_inconsistencies(self, specific: Sequence[str] | None) -> Iterator[ConfigIssue]:
        """Yield what cannot be measured the way that the section says."""
        if isinstance(self.probe, InFlight):
            yield unusable_probe(self.probe, "with mixing.type doge, which needs gradient norms")
        else:
            yield from find_direction_inconsistencies(self.probe)
        if specific is not None and self.aligns_to_specific and len(specific) != 1:
            expected = "exactly one set, which mixing.type doge aligns to"
            yield ConfigIssue(("data", "specific"), expected, ", ".join(specific) or "none")


@final
@dataclass(frozen=True, eq=False)
class Doge:
    """Domain reweighting with generalization estimation (arXiv 2310.15393, Algorithm 1).

    Fan, Pagliardini and Jaggi call ``W_i = <g_i, sum_j g_j>`` over all training domains the
    universal generalization of a domain, ``W_i = <g_i, v>`` with a specific set's gradient its
    out-of-domain generalization. With either,

        alpha <- alpha * exp(step_size * clip(W / mean_i |g_i|, 0, max_score)) / sum

    ``step_size`` is the paper's ``eta_t / mu``. Batches are sampled from the last weights, and
    `average_weights` gives the mean over the run, which is what the paper trains the large model
    on.

    Paper and code differ: in the paper ``W`` is neither divided by the mean norm nor clipped; the
    code does both (``max_score`` is 5 there, in units of the learning rate) and clips every
    gradient to norm 1 first. Its switch to leave ``<g_i, g_i>`` out of the sum compares sets of
    tensors, which never are equal: the term stays in, as in the paper. This class follows the
    code but for clipping gradients, which sums of inner products do not show, and but for two
    things about the run: ``eta_t`` follows the learning rate there, and the proxy model weights
    the losses of equally drawn domains where we draw by the weights.

    Attributes:
        initial: The first mixture, shape ``(K,)``; zeros stay zero for good.
        step_size: ``eta / mu``, finite, at least 0. The paper's 5e-4 and 0.05 give 0.01.
        target: ``domains`` for universal generalization, ``specific`` for a target's.
        max_score: Largest score, above 0; infinite for no bound.

    Raises:
        ValueError: If a value is out of range.
    """

    initial: FloatArray
    step_size: float
    target: Literal["domains", "specific"] = "domains"
    max_score: float = 5.0

    def __post_init__(self) -> None:
        check_simplex(self.initial, name="initial")
        if not 0.0 <= self.step_size < float("inf"):
            raise ValueError(f"step_size: expected a finite number >= 0, found {self.step_size}")
        if self.target not in ("domains", "specific"):
            raise ValueError(f"target: expected domains or specific, found {self.target!r}")
        if not self.max_score > 0.0:
            raise ValueError(f"max_score: expected a number > 0, found {self.max_score}")

    @property
    def observes(self) -> AlignmentNeeds:
        """Alignments with the target, and every domain's norm."""
        return AlignmentNeeds(norms=True, target=self.target)

    def init(self) -> MixtureState:
        """Return the initial mixture."""
        weights = check_simplex(self.initial)
        return MixtureState(weights.copy(), weights.copy(), 0, 0, first_average(weights))

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; one that is not finite is left out.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``.
        """
        assert isinstance(observed, Alignments)
        check_domains("alignments", observed.dots.shape, state)
        if not observed.is_finite():
            return skip_update(state)
        weights = exponentiated_step(state.weights, self.scores(observed), self.step_size)
        return replace(
            state,
            weights=weights,
            averaged_weights=weights,
            num_updates=state.num_updates + 1,
            memory=next_average(state, weights),
        )

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change: the weights of domains that stay, and their mean."""
        return carry(state, self.init(), change, axes={})

    def scores(self, observed: Alignments) -> FloatArray:
        """Return every domain's score, in ``[0, max_score]``, shape ``(K,)``; 0 without norms."""
        assert observed.squared_norms is not None
        mean_norm = float(np.sqrt(observed.squared_norms).mean())
        if mean_norm == 0.0:
            return np.zeros_like(observed.dots)
        # Alignments are with the mean of the domains' gradients, W is with their sum.
        terms = observed.dots.size if self.target == "domains" else 1
        with np.errstate(over="ignore"):
            scores = observed.dots / mean_norm * terms
        return np.clip(scores, 0.0, min(self.max_score, np.finfo(np.float64).max))


def make_doge(options: DogeOptions, context: RuleContext) -> Doge:
    """Return the rule over the domains.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    return Doge(
        context.weights("initial", options.initial),
        step_size=options.step_size,
        target=options.target,
        max_score=options.max_score,
    )


RULES = (Rule(DogeOptions, make_doge),)
