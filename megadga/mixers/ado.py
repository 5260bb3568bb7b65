"""Adaptive Data Optimization (arXiv 2410.11820): domains by how fast their losses still fall."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, final

import numpy as np

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.base import (
    LossNeeds,
    MixtureState,
    Observed,
    skip_update,
    usable_losses,
)
from megadga.mixers.carrying import MixtureChange, carry
from megadga.mixers.power_laws import LossCurves, PowerLaws, fit_power_laws
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.weights import Weights
from megadga.section import (
    ConfigIssue,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

_CREDIT = "credit"
_MEAN_PREFERENCE = "mean_preference"
_CURVES = ("curve_losses", "curve_counts", "curve_positions", "curve_observations")
_CURVE_AXES = {"curve_losses": 1, "curve_counts": 1}
_LAWS = "laws"
_PROGRESS = "progress"


_LARGEST_LOSS = 1e30
"""Magnitude from which losses count as this one: sums of them stay finite."""


class AdoOptions(RuleOptions):
    """Adaptive Data Optimization (arXiv 2410.11820): weight to losses that still fall."""

    type: Literal["ado"]
    """How the domains' weights are set."""
    interval: PositiveInt = 1
    """Optimizer steps between updates of the weights, at least 1; 1: the paper. Batches are read
    ahead only up to the next one."""
    initial: Weights = "proportional"
    """The prior: weights until the first fit, and a factor of every later weight; a domain that it
    gives 0 is never drawn. Written as the weights of type static."""
    warmup: PositiveInt | None = None
    """Optimizer steps at the initial weights, at least 1; null: 2 % of training.steps; the
    paper's runs: 1,000 of 60,000."""
    ignored: NonNegativeInt | None = None
    """First optimizer steps, whose losses no law is fitted to, at least 0 and less than `warmup`;
    null: half of it."""
    fit_interval: PositiveInt | None = None
    """Optimizer steps between fits of the laws, at least 1; null: 1/60 of training.steps, as the
    paper's 1,000 of 60,000."""
    credit_rate: Fraction = 0.1
    """Share of the present weights in what a domain's progress is credited to, a step, in [0, 1];
    gamma_1 of the paper."""
    credit_power: PositiveFloat = 0.5
    """Exponent of that credit, above 0; s of the paper."""
    preference_rate: Fraction = 0.1
    """Share of the present preference in the weights, beside its mean over training, in [0, 1];
    gamma_2 of the paper."""
    min_weight: Fraction | None = None
    """Least preference for a domain, at most one over their number; null: 0.01, as in the paper,
    or a quarter of one over their number with more than 25."""

    def find_warnings(self, steps: int) -> Iterator[ConfigIssue]:
        """Yield a warm-up that takes the whole run."""
        if self.warmup is not None and self.warmup >= steps:
            expected = f"less than training.steps ({steps}), or the weights never move"
            yield ConfigIssue(("mixing", "warmup"), expected, str(self.warmup))

    def find_inconsistencies(self, specific: object) -> Iterator[ConfigIssue]:  # noqa: ARG002
        """Yield a warm-up that ends before losses are read."""
        if self.warmup is not None and self.ignored is not None and self.ignored >= self.warmup:
            expected = f"less than mixing.warmup ({self.warmup})"
            yield ConfigIssue(("ignored",), expected, str(self.ignored))


class _Progress(NamedTuple):
    """Optimizer steps and sequences until the last update, step of the last fit, laws' unit."""

    step: float = 0.0
    drawn: float = 0.0
    fitted_at: float = 0.0
    unit: float = 1.0


@final
@dataclass(frozen=True, eq=False)
class Ado:
    """Algorithm 1 of Jiang, Zhou, Feng, Malladi, Kolter (arXiv 2410.11820).

    With the prior ``mu``, the number ``n`` of sequences trained, and a power law ``L_k(n)`` fitted
    to each domain's training losses every ``fit_interval`` steps, after optimizer step ``t``

        rho_k  ~ mu_k h_k^s (-dL_k/dn),  at least ``min_weight``      (the preference)
        pi_k   = gamma_2 rho_k + (1 - gamma_2) mean_k                 (the weights)
        mean_k <- mean_k + (rho_k - mean_k) / (t + 1)
        h_k    <- gamma_1 pi_k + (1 - gamma_1) h_k                    (the credit)

    What falls fast gets more weight, in so far as it was drawn while it fell; what is learned, or
    is noise, gets less. Nothing is specific to a target, and nothing is measured that training
    does not compute anyway.

    Where paper and code differ, this follows the code: ``n`` counts the sequences of all domains,
    as a domain is also learned from the others, and ``min_weight`` bounds the preference instead
    of the weights. The credit is of weights as in the paper, where the code takes the shares of
    the batches, whose mean they are. Both smooth the losses before they fit every tenth of them,
    here they are means over bins (`LossCurves`); the code keeps floors above exp(0.5) nats, which
    a model of repeated text is below.

    With an update every ``T`` steps, rates hold for a step: ``gamma_1`` is
    ``1 - (1 - gamma_1)^T``, and ``1 / (t + 1)`` is ``T / (t + 1)``.

    Attributes:
        initial: The prior, shape ``(K,)``.
        warmup: Optimizer steps at the prior, at least 1.
        ignored: First optimizer steps, whose losses are not fitted, in ``[0, warmup)``.
        fit_interval: Optimizer steps between fits, at least 1.
        credit_rate: ``gamma_1``, in ``[0, 1]``.
        credit_power: ``s``, above 0.
        preference_rate: ``gamma_2``, in ``[0, 1]``.
        min_weight: In ``[0, 1/K]``, ``K`` being the domains that the prior gives a weight.

    Raises:
        ValueError: If a value is out of range.
    """

    initial: FloatArray
    warmup: int
    ignored: int = 0
    fit_interval: int = 1000
    credit_rate: float = 0.1
    credit_power: float = 0.5
    preference_rate: float = 0.1
    min_weight: float = 0.01

    def __post_init__(self) -> None:
        check_simplex(self.initial, name="initial")
        if not 0 <= self.ignored < self.warmup:
            raise ValueError(f"ignored: expected 0 <= ignored < warmup, found {self.ignored}")
        if self.fit_interval < 1:
            raise ValueError(f"fit_interval: expected at least 1, found {self.fit_interval}")
        if self.credit_power <= 0.0:
            raise ValueError(f"credit_power: expected above 0, found {self.credit_power}")
        for name in ("credit_rate", "preference_rate"):
            if not 0.0 <= (rate := getattr(self, name)) <= 1.0:
                raise ValueError(f"{name}: expected a share in [0, 1], found {rate}")
        most = 1.0 / np.count_nonzero(self.initial)
        if not 0.0 <= self.min_weight <= most:
            raise ValueError(f"min_weight: expected in [0, {most:g}], found {self.min_weight}")

    @property
    def observes(self) -> LossNeeds:
        """The losses of training."""
        return LossNeeds()

    def init(self) -> MixtureState:
        """Return the prior, with no loss observed yet."""
        prior = check_simplex(self.initial)
        curves = LossCurves.empty(prior.size)
        memory = {
            _CREDIT: prior.copy(),
            _MEAN_PREFERENCE: prior.copy(),
            **_curve_memory(curves),
            _LAWS: np.zeros((3, prior.size)),
            _PROGRESS: np.array(_Progress()),
        }
        return MixtureState(prior.copy(), prior.copy(), 0, 0, memory)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; one that is not finite is left out.

        So is one without any sequence.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``.
        """
        if (found := usable_losses(observed, state)) is None:
            return skip_update(state)
        progress = _Progress(*state.memory[_PROGRESS].tolist())
        elapsed = found.step - progress.step
        drawn = progress.drawn + float(found.counts.sum())
        curves = LossCurves(*(state.memory[name] for name in _CURVES))
        if found.step > self.ignored:
            counts = found.counts.astype(np.float64)
            losses = np.clip(found.losses, -_LARGEST_LOSS, _LARGEST_LOSS)
            curves = curves.observed(losses, counts, drawn)
        laws = PowerLaws(*state.memory[_LAWS], unit=progress.unit)
        fitted_at = progress.fitted_at
        is_due = found.step - fitted_at >= self.fit_interval or not laws.exponent.any()
        if found.step >= self.warmup and is_due:
            laws, fitted_at = fit_power_laws(curves), float(found.step)
        progress = _Progress(float(found.step), drawn, fitted_at, laws.unit)
        memory = {
            **state.memory,
            **_curve_memory(curves),
            _LAWS: np.stack([laws.floor, laws.scale, laws.exponent]),
            _PROGRESS: np.array(progress),
        }
        after = replace(state, num_updates=state.num_updates + 1, memory=memory)
        if not laws.exponent.any():  # before the first fit, or losses are too few for it
            return after
        return self._moved(after, laws.slopes(drawn), found.step, elapsed)

    def _moved(
        self, state: MixtureState, slopes: FloatArray, step: int, elapsed: float
    ) -> MixtureState:
        """Return the state with the weights that follow from the laws' slopes."""
        credit, mean = state.memory[_CREDIT], state.memory[_MEAN_PREFERENCE]
        preference = self._preference(credit, slopes)
        rate = self.preference_rate
        weights = rate * preference + (1.0 - rate) * mean
        weights /= weights.sum()
        share = min(1.0, elapsed / (step + 1.0))
        kept = (1.0 - self.credit_rate) ** elapsed
        memory = {
            **state.memory,
            _MEAN_PREFERENCE: mean + share * (preference - mean),
            _CREDIT: kept * credit + (1.0 - kept) * weights,
        }
        return replace(state, weights=weights, averaged_weights=weights.copy(), memory=memory)

    def _preference(self, credit: FloatArray, slopes: FloatArray) -> FloatArray:
        """Return ``rho``; a domain without a law is taken to fall as the others do on average."""
        known = slopes > 0.0
        if not known.any():
            return self.initial
        scores = np.where(known, slopes, slopes[known].mean())
        products = self.initial * credit**self.credit_power * scores
        preference = products / products.sum()
        least = np.where(self.initial > 0.0, self.min_weight, 0.0)
        bounded = np.maximum(preference, least)
        return bounded / bounded.sum()

    def continue_from(self, state: MixtureState, weights: FloatArray) -> MixtureState:
        """Return a state whose credit and mean preference are these weights."""
        memory = {
            **state.memory,
            _CREDIT: weights.copy(),
            _MEAN_PREFERENCE: weights.copy(),
        }
        return replace(
            state, weights=weights.copy(), averaged_weights=weights.copy(), memory=memory
        )

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change: weights and curves of the domains that stay.

        The laws of domains that enter are fitted with the next ones. Curves start anew where so
        many domains enter or leave that there are fewer or more bins.
        """
        fresh = self.init()
        positions = _CURVES[2]
        before = state.memory.get(positions, fresh.memory[positions])
        fits = before.shape == fresh.memory[positions].shape  # else bins are others
        carried = carry(
            state,
            fresh,
            change,
            axes={**_CURVE_AXES, _LAWS: 1},
            restarted=frozenset(() if fits else _CURVES),
        )
        mixtures = {
            name: change.mixture(state.memory[name])
            if change.same_rule and name in state.memory
            else carried.weights
            for name in (_CREDIT, _MEAN_PREFERENCE)
        }
        if not change.same_rule:
            mixtures[_PROGRESS] = np.array(_Progress(step=float(change.step)))
        return replace(carried, memory={**carried.memory, **mixtures})


def _curve_memory(curves: LossCurves) -> dict[str, FloatArray]:
    values = (curves.losses, curves.counts, curves.positions, curves.observations)
    return dict(zip(_CURVES, values, strict=True))


def make_ado(options: AdoOptions, context: RuleContext) -> Ado:
    """Return the rule over the domains, with what depends on the run's length and domains.

    Raises:
        ConfigError: If weights do not name exactly the domains, or are below the least.
    """
    initial = context.weights("initial", options.initial)
    warmup = options.warmup or max(2, context.total_steps // 50)
    ignored = warmup // 2 if options.ignored is None else options.ignored
    if ignored >= warmup:
        raise context.invalid("ignored", expected=f"less than {warmup}", found=str(ignored))
    most = 1.0 / np.count_nonzero(initial)
    least = min(0.01, 0.25 * most) if options.min_weight is None else options.min_weight
    if least > most:
        raise context.invalid("min_weight", expected=f"at most {most:g}", found=f"{least:g}")
    return Ado(
        initial,
        warmup=warmup,
        ignored=ignored,
        fit_interval=options.fit_interval or max(1, context.total_steps // 60),
        credit_rate=options.credit_rate,
        credit_power=options.credit_power,
        preference_rate=options.preference_rate,
        min_weight=least,
    )


RULES = (Rule(AdoOptions, make_ado),)
