"""Online Data Mixing (arXiv 2312.02406): a bandit rewarded with the training losses."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, final

import numpy as np
from pydantic import Field

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.base import (
    DomainLosses,
    LossNeeds,
    MixtureState,
    Observed,
    skip_update,
    usable_losses,
)
from megadga.mixers.carrying import MixtureChange, carry
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.simplex import exponentiated_step
from megadga.mixers.static import uniform_weights
from megadga.mixers.weights import Weights
from megadga.section import ConfigIssue, NonNegativeInt, PositiveInt


class OdmOptions(RuleOptions):
    """Online Data Mixing (arXiv 2312.02406): a bandit that follows the losses of training."""

    type: Literal["odm"]
    """How the domains' weights are set."""
    interval: PositiveInt = 1
    """Optimizer steps between updates of the weights, at least 1; 1: the paper. Batches are read
    ahead only up to the next one."""
    initial: Weights = "uniform"
    """Weights until the first update after the warm-up, written as the weights of type static."""
    smoothing: Annotated[float, Field(strict=True, ge=0.0, lt=1.0)] = 0.9
    """Share of the old reward in the new one, in [0, 1)."""
    warmup: NonNegativeInt = 0
    """Optimizer steps at the initial weights, at least 0; the paper: 1 % of all."""
    reward: Literal["importance", "exponential"] = "importance"
    """What a domain is rewarded with; importance: its loss over its weight, as in the paper;
    exponential: exp(loss), as in the paper's code."""

    def find_warnings(self, steps: int) -> Iterator[ConfigIssue]:
        """Yield a warm-up that takes the whole run."""
        if self.warmup >= steps:
            expected = f"less than training.steps ({steps}), or the weights never move"
            yield ConfigIssue(("mixing", "warmup"), expected, str(self.warmup))


RewardName = Literal["importance", "exponential"]


_REWARDS = "rewards"


_EXPLORATION = "exploration"


_LARGEST = np.finfo(np.float64).max
_LEAST_SHARE = 1e-9
"""Of weights that follow rewards, above which they do: ``1 - K eps`` may be rounded from 0."""


@final
@dataclass(frozen=True, eq=False)
class Odm:
    """Algorithm 1 of Albalak, Pan, Raffel, Wang (arXiv 2312.02406): EXP3 on training losses.

    After optimizer step ``t``, with the losses ``L_i`` of the domains that were drawn at the
    weights ``pi_i``,

        R_i   <- smoothing * R_i + (1 - smoothing) * L_i / pi_i        (of those drawn)
        eps_t  = min(1/K, sqrt(ln K / (K t)))
        pi_i  <- (1 - K eps_t) * exp(eps_(t-1) * R_i) / sum + eps_t

    What is hard gets more weight, whether it can be learned or is noise. Nothing is specific to a
    target, and nothing is measured that training does not compute anyway. For the first
    ``K ln K`` steps ``eps_t`` is ``1/K`` and the weights are uniform: the rule is for few domains.

    Paper and code differ: the reward that the authors' runs use is ``exponential``. It smooths
    ``exp(L_i)``, a perplexity, in the place of ``L_i / pi_i``, and is normalised as it is,
    ``pi_i = (1 - K eps_t) * R_i / sum + eps_t``. As ``R`` is 0 before a domain is drawn, its
    weight then is ``eps_t``.

    Here one update takes in the mean loss since the last one. While warming up, rewards are
    collected and the weights stay.

    Attributes:
        initial: The mixture until the first update after the warm-up, shape ``(K,)``. It is
            forgotten then: every domain gets ``eps_t`` at least, also one that was at 0.
        smoothing: Of the rewards, in ``[0, 1)``; 0 remembers only the last.
        warmup: Optimizer steps at the initial mixture, at least 0; the paper takes 1% of all.
        reward: ``importance`` as in the paper, ``exponential`` as in its code.

    Raises:
        ValueError: If a value is out of range.
    """

    initial: FloatArray
    smoothing: float = 0.9
    warmup: int = 0
    reward: RewardName = "importance"

    def __post_init__(self) -> None:
        check_simplex(self.initial, name="initial")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing: expected 0 <= smoothing < 1, found {self.smoothing}")
        if self.warmup < 0:
            raise ValueError(f"warmup: expected at least 0 steps, found {self.warmup}")
        if self.reward not in ("importance", "exponential"):
            raise ValueError(f"reward: expected importance or exponential, found {self.reward!r}")

    @property
    def observes(self) -> LossNeeds:
        """The losses of training."""
        return LossNeeds()

    def init(self) -> MixtureState:
        """Return the initial mixture, with nothing rewarded yet."""
        weights = check_simplex(self.initial)
        none = 0.0 if self.reward == "importance" else -math.inf
        memory = {
            _REWARDS: np.full(weights.size, none),
            _EXPLORATION: np.array([1.0 / weights.size]),
        }
        return MixtureState(weights.copy(), weights.copy(), 0, 0, memory)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; one that is not finite is left out.

        So is one without any sequence.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``.
        """
        if (found := usable_losses(observed, state)) is None:
            return skip_update(state)
        memory = {
            _REWARDS: self._rewarded(state, found),
            _EXPLORATION: np.array([exploration(state.weights.size, found.step)]),
        }
        after = replace(state, num_updates=state.num_updates + 1, memory=memory)
        if found.step <= self.warmup:
            return after
        weights = self._mixture(memory, float(state.memory[_EXPLORATION][0]))
        return replace(after, weights=weights, averaged_weights=weights)

    def continue_from(self, state: MixtureState, weights: FloatArray) -> MixtureState:
        """Return a state with the rewards whose weights these are, by the present ``eps``.

        A weight below ``eps``, which the rule gives no domain, becomes ``eps`` at the next update.
        While ``eps`` is ``1/K`` all weights are equal, whatever the rewards: these stay.
        """
        eps = float(state.memory[_EXPLORATION][0])
        share = 1.0 - weights.size * eps
        memory = state.memory
        if eps > 0.0 and share > _LEAST_SHARE:  # a single domain has eps 0
            tiny = np.finfo(np.float64).tiny
            rewards = np.log(np.maximum((weights - eps) / share, tiny))
            if self.reward == "importance":
                rewards = rewards / eps
            memory = {**memory, _REWARDS: rewards}
        return replace(
            state, weights=weights.copy(), averaged_weights=weights.copy(), memory=memory
        )

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change: weights and rewards of the domains that stay."""
        return carry(state, self.init(), change, axes={_REWARDS: 0})

    def _rewarded(self, state: MixtureState, observed: DomainLosses) -> FloatArray:
        """Return ``R``, or its logarithm if rewards are exponentials, which would overflow."""
        drawn = observed.counts > 0
        rewards = state.memory[_REWARDS].copy()
        losses, old, keep = observed.losses[drawn], rewards[drawn], self.smoothing
        if self.reward == "exponential":
            # Differences of these do not overflow.
            losses = np.clip(losses, -_LARGEST / 4.0, _LARGEST / 4.0)
            kept = old + math.log(keep) if keep > 0.0 else np.full_like(old, -math.inf)
            rewards[drawn] = np.logaddexp(kept, losses + math.log1p(-keep))
            return rewards
        with np.errstate(over="ignore", divide="ignore"):
            # A domain of no weight may have been drawn before the weights moved.
            reward = losses / np.maximum(state.weights[drawn], np.finfo(np.float64).tiny)
        rewards[drawn] = keep * old + (1.0 - keep) * np.clip(reward, -_LARGEST, _LARGEST)
        return rewards

    def _mixture(self, memory: Mapping[str, FloatArray], temperature: float) -> FloatArray:
        rewards, floor = memory[_REWARDS], float(memory[_EXPLORATION][0])
        if self.reward == "exponential":
            relative = np.exp(rewards - rewards.max())
            exploited = relative / relative.sum()
        else:
            exploited = exponentiated_step(uniform_weights(rewards.size), rewards, temperature)
        return (1.0 - rewards.size * floor) * exploited + floor


def exploration(num_domains: int, step: int) -> float:
    """Return ``eps_t``, the weight that every domain gets after ``step`` optimizer steps.

    Args:
        num_domains: ``K``, at least 1.
        step: At least 1.

    Raises:
        ValueError: If no step was taken.
    """
    if step < 1:
        raise ValueError(f"step: expected at least 1, found {step}")
    return min(1.0 / num_domains, math.sqrt(math.log(num_domains) / (num_domains * step)))


def make_odm(options: OdmOptions, context: RuleContext) -> Odm:
    """Return the rule over the domains.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    return Odm(
        context.weights("initial", options.initial),
        smoothing=options.smoothing,
        warmup=options.warmup,
        reward=options.reward,
    )


RULES = (Rule(OdmOptions, make_odm),)
