"""Fixed mixtures: uniform, proportional to tokens, temperature, UniMax, explicit."""

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.mixers.base import MixtureState, Observed
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.weights import TemperatureWeights, UnimaxWeights, Weights


class StaticOptions(RuleOptions):
    """Weights that stay as they are."""

    type: Literal["static"]
    """How the domains' weights are set."""
    weights: Weights
    """uniform, proportional (to tokens), {type: temperature, temperature: T},
    {type: unimax, max_epochs: N}, {type: matched} (to the specific sets), or {domain: weight} for
    every domain."""


class UniformOptions(RuleOptions):
    """The same weight for every domain."""

    type: Literal["uniform"]
    """How the domains' weights are set."""


class ProportionalOptions(RuleOptions):
    """Weights proportional to the domains' tokens."""

    type: Literal["proportional"]
    """How the domains' weights are set."""


class TemperatureOptions(TemperatureWeights, RuleOptions):
    """Weights proportional to tokens ** (1 / temperature)."""


class UnimaxOptions(UnimaxWeights, RuleOptions):
    """The most even weights at which no domain is repeated too often (arXiv 2304.09151)."""


@final
@dataclass(frozen=True, eq=False)
class Static:
    """The same mixture from the first batch to the last.

    Attributes:
        weights: A distribution, shape ``(K,)``.
        lost_mass: Share of what they were made from that fell into domains that are excluded, in
            ``[0, 1)``; the others got it in proportion.

    Raises:
        ValueError: If ``weights`` is not one.
    """

    weights: FloatArray
    lost_mass: float = 0.0

    def __post_init__(self) -> None:
        check_simplex(self.weights)

    @property
    def observes(self) -> None:
        """Nothing is measured."""
        return

    def init(self) -> MixtureState:
        """Return the mixture."""
        weights = check_simplex(self.weights)
        return MixtureState(weights.copy(), weights.copy(), num_updates=0, num_skipped=0)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:  # noqa: ARG002
        """Return ``state``."""
        return state


def uniform_weights(num_domains: int) -> FloatArray:
    """Return ``1/K`` for each of ``num_domains >= 1`` domains, shape ``(K,)``."""
    if num_domains < 1:
        raise ValueError(f"num_domains: expected at least 1, found {num_domains}")
    return np.full(num_domains, 1.0 / num_domains)


def proportional_weights(tokens: IntArray) -> FloatArray:
    """Return each domain's share of all tokens, shape ``(K,)``.

    Args:
        tokens: Tokens of each domain, not negative and not all 0, shape ``(K,)``.

    Raises:
        ValueError: If a count is wrong.
    """
    return temperature_weights(tokens, 1.0)


def temperature_weights(tokens: IntArray, temperature: float) -> FloatArray:
    """Return ``tokens^(1 / temperature)``, normalised, as multilingual models are mixed.

    Args:
        tokens: Tokens of each domain, not negative and not all 0, shape ``(K,)``. A domain with
            none gets weight 0 at any temperature.
        temperature: Above 0; 1 is proportional, larger ones come closer to uniform.

    Raises:
        ValueError: If a count or the temperature is out of range.
    """
    if not 0.0 < temperature < np.inf:
        raise ValueError(f"temperature: expected a finite number > 0, found {temperature}")
    counts = np.asarray(tokens, dtype=np.float64)
    if counts.ndim != 1 or not (counts > 0.0).any():
        raise ValueError(f"tokens: expected shape (K,) and one count > 0, found {counts.shape}")
    if (wrong := ~(counts >= 0.0)).any():
        index = int(np.argmax(wrong))
        raise ValueError(f"tokens: expected counts >= 0, found {tokens[index]} at index {index}")
    # Relative to the largest: a power of it never overflows.
    relative = (counts / counts.max()) ** (1.0 / temperature)
    return relative / relative.sum()


def unimax_weights(tokens: IntArray, *, budget: float, max_epochs: float) -> FloatArray:
    """Return the most even mixture in which no domain is seen more than ``max_epochs`` times.

    Algorithm 1 of Chung et al. (arXiv 2304.09151), for tokens instead of characters: from the
    smallest domain to the largest, each gets an equal share of what is left of the budget, but no
    more than ``max_epochs * tokens``. That is ``min(max_epochs * tokens, level)`` with the one
    level at which all of the budget is handed out. A budget above ``max_epochs`` times all tokens
    is cut to it: then all domains are at the cap, and the weights are proportional.

    The cap holds for a run of ``budget`` tokens at constant weights.

    Args:
        tokens: Tokens of each domain, not negative and not all 0, shape ``(K,)``. A domain with
            none gets weight 0.
        budget: Tokens of the whole run, above 0.
        max_epochs: Largest number of passes over a domain, above 0.

    Returns:
        Weights that sum to 1, shape ``(K,)``.

    Raises:
        ValueError: If a value is out of range.
    """
    for name, value in (("budget", budget), ("max_epochs", max_epochs)):
        if not 0.0 < value < np.inf:
            raise ValueError(f"{name}: expected a finite number > 0, found {value}")
    sizes = np.asarray(tokens, dtype=np.float64)
    if sizes.ndim != 1 or not (sizes > 0.0).any():
        raise ValueError(f"tokens: expected shape (K,) and one count > 0, found {sizes.shape}")
    if (wrong := ~(sizes >= 0.0)).any():
        index = int(np.argmax(wrong))
        raise ValueError(f"tokens: expected counts >= 0, found {tokens[index]} at index {index}")
    # In units of the budget: nothing overflows, and whatever is handed out is a weight already.
    with np.errstate(over="ignore"):
        caps = np.minimum(sizes / budget * max_epochs, 1.0)
    handed_out = _filled(caps)
    return handed_out / handed_out.sum()


def epoch_caps(epochs_at_one: FloatArray, max_epochs: float) -> FloatArray:
    """Return the largest constant weights at which no domain is read more often than it may be.

    Args:
        epochs_at_one: Epochs of each domain that a run takes at weight 1, above 0, shape ``(K,)``.
        max_epochs: Passes over a domain at most, above 0.

    Returns:
        In ``(0, 1]``, shape ``(K,)``.

    Raises:
        ValueError: If a value is out of range, or there are too few tokens: the caps sum to less
            than 1.
    """
    if not (np.isfinite(epochs_at_one) & (epochs_at_one > 0.0)).all() or not max_epochs > 0.0:
        raise ValueError("epochs_at_one, max_epochs: expected finite numbers above 0")
    caps: FloatArray = np.minimum(max_epochs / epochs_at_one, 1.0)
    if caps.sum() < 1.0:
        needed = 1.0 / float((1.0 / epochs_at_one).sum())
        raise ValueError(
            f"max_epochs: expected at least {needed:.2f}, which all domains together need, "
            f"found {max_epochs:g}"
        )
    return caps


def _filled(caps: FloatArray) -> FloatArray:
    """Return ``min(caps, level)`` of sum 1, or ``caps`` if they do not reach it."""
    ascending = np.sort(caps)
    # With the m smallest at their caps, the others would be at levels[m].
    below = np.concatenate(([0.0], np.cumsum(ascending)[:-1]))
    levels = (1.0 - below) / np.arange(caps.size, 0, -1)
    above = ascending >= levels
    return np.minimum(caps, levels[np.argmax(above)]) if above.any() else caps


def _make_static(options: StaticOptions, context: RuleContext) -> Static:
    return Static(context.weights("weights", options.weights))


def _make_named(options: UniformOptions | ProportionalOptions, context: RuleContext) -> Static:
    return Static(context.weights((), options.type))


def _make_derived(options: TemperatureOptions | UnimaxOptions, context: RuleContext) -> Static:
    return Static(context.weights((), options))


RULES = (
    Rule(StaticOptions, _make_static),
    Rule(UniformOptions, _make_named),
    Rule(ProportionalOptions, _make_named),
    Rule(TemperatureOptions, _make_derived),
    Rule(UnimaxOptions, _make_derived),
)
