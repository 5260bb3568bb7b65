"""Dynamic Gradient Alignment (arXiv 2410.02498, Algorithm 1): mirror descent on the mixture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, final

import numpy as np
from pydantic import model_validator

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.base import (
    AlignmentNeeds,
    Alignments,
    Memory,
    MixtureState,
    Observed,
    Scheduler,
    TargetNeeds,
    check_domains,
    skip_update,
)
from megadga.mixers.carrying import MixtureChange, carry
from megadga.mixers.filtering import (
    DOMAIN_AXES,
    FILTER_MEMORY,
    filtered,
    first_memory,
    posterior,
)
from megadga.mixers.general_guard import GUARD_MEMORY, GeneralGuard, Pull, pull_of
from megadga.mixers.probing import (
    Directional,
    InFlight,
    LowRank,
    Probe,
    Sharded,
    WithoutMoments,
    find_direction_inconsistencies,
    unusable_probe,
)
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.safeguards import (
    EpochBudget,
    RepeatDiscount,
    is_active,
    limit_change,
    signal_to_noise,
)
from megadga.mixers.scores import SCORES, AutoStep, ScoreName, StepSize
from megadga.mixers.simplex import (
    exponentiated_step,
    project_to_caps,
    project_to_floor,
)
from megadga.mixers.static import uniform_weights
from megadga.mixers.targets import OverTargets
from megadga.mixers.weights import MatchedWeights, TemperatureWeights, UnimaxWeights, Weights
from megadga.section import (
    ConfigIssue,
    Fraction,
    KeyPath,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    StrictBool,
    format_value,
)

_PAPER: Mapping[str, object] = {
    "interval": 100,
    "step_size": 0.1,
    "score": "raw",
    "initial": "uniform",
    "without_moments": "refuse",
    "filtered": False,
    "epoch_budget": None,
    "repeat_decay": None,
    "general_guard": None,
    "probe": {"type": "directional"},
}
"""What keys are by default where the preset is the paper's."""
_IN_FLIGHT = InFlight(
    sequences_per_domain=1,
    specific_sequences=8,
    direction=LowRank(rank=16),
    direction_interval=10,
    refresh_every=None,
)
_BETWEEN_STEPS = Directional(sequences_per_domain=2, specific_sequences=8)
_GUARD = GeneralGuard(max_rise=0.1, pull=0.5)
_PRIOR_BY_HAND = "prior_by_hand"
"""What filtered weights are a multiple of after they were set by hand."""


class DgaOptions(RuleOptions):
    """Dynamic Gradient Alignment (arXiv 2410.02498): filtered, or Algorithm 1 by its preset."""

    type: Literal["dga"]
    """How the domains' weights are set."""
    preset: Literal["filtered", "paper"] = "filtered"
    """What the other keys are by default; filtered: as told with each; paper: Algorithm 1
    (interval 100, step_size 0.1, score raw, initial uniform, without_moments refuse, filtered
    false, epoch_budget null, repeat_decay null, general_guard null, probe directional)."""
    interval: PositiveInt | None = None
    """Optimizer steps between updates of the weights (T_r), at least 1; null: as few as `overhead`
    allows."""
    overhead: PositiveFraction = 0.01
    """Share of training that updates may cost by prediction, in (0, 1], where `interval` is null;
    three times that in the first tenth of the run."""
    step_size: StepSize = 1.0
    """Step (eta), above 0. Filtered: standard deviation of the weights' logarithms over domains
    that are well known. Else of mirror descent, in units of one over the score's; {spread: s}
    then chooses it for each update, so that the exponents differ by s in standard deviation."""
    filtered: StrictBool = True
    """Whether weights follow what is known of the scores from all updates (a Kalman filter): the
    prior times exp(step_size x standardized score). false: mirror descent on the scores of each
    update, as in the paper."""
    epoch_budget: PositiveFloat | None = 4.0
    """Passes over a domain that weights leave room for until the end of the run, above 0; never
    less than 1.5 times those over all domains. It may take a weight below `floor`. null: no
    limit, as in the paper. Not with a basis."""
    repeat_decay: PositiveFloat | None = 2.0
    """Repetitions of a domain's tokens that divide what one more is worth by e, above 0: weights
    are discounted by those that they come to by the end of the run, which may take one below
    `floor`. null: one more is worth as much as the first, as in the paper. Not with a basis."""
    ema: PositiveFraction = 1.0
    """Share of the new weights in the average that batches are drawn from (beta), in (0, 1];
    1: no averaging."""
    score: Literal["raw", "cosine", "clipped", "adam"] = "adam"
    """What enters exp(): raw: inner products (the paper); cosine: of unit gradients; clipped: of
    gradients clipped to norm 1; adam: with the specific gradient divided by what AdamW divides
    by. cosine and clipped need every domain's gradient."""
    without_moments: WithoutMoments = "raw"
    """What the score adam does before AdamW has second moments; refuse: an error; raw: as the
    score raw. Other scores do not read it."""
    basis: Path | None = None
    """File of basis distributions over the domains (`megadga data histogram`), relative to this
    file: the rule (initial, prior, floor too) weights these in the domains' place, and probes draw
    from them; null: it weights the domains."""
    initial: Weights = MatchedWeights(type="matched")
    """Weights at step 0: {type: matched, uniform_share: 0.05}, the mixture whose token frequencies
    are closest to the specific sets', but for one twentieth, which is uniform; uniform;
    proportional (to tokens); {type: temperature, temperature: T}; {type: unimax, max_epochs: N};
    or {domain: weight} for every domain. With a basis: matched, uniform, or {name: weight} for
    every distribution in it."""
    floor: Fraction = 0.0
    """Least weight of a domain, in [0, 1 / domains]; 0: the paper."""
    prior: Weights | None = None
    """Mixture that updates are pulled towards, written as `initial`; null: `initial`."""
    prior_pull: Fraction = 0.0
    """Share of the prior in every update (geometric), in [0, 1]; 0: the paper."""
    combine: Literal["sum", "worst"] = "sum"
    """What several specific sets come to; sum: their scores, by importance; worst: in each update
    those of the set whose loss falls least, as a share of itself (max-min). One is as it is."""
    min_signal: NonNegativeFloat = 0.0
    """Least ratio of the scores' true differences to their noise; an update below it is skipped.
    At least 0; 0: none is, as in the paper."""
    max_change: PositiveFraction = 1.0
    """Largest share of a batch that an update may move to other domains (total variation), in
    (0, 1]; 1: no limit, as in the paper."""
    warmup: NonNegativeInt = 0
    """Updates at the start that are measured and left out, at least 0."""
    freeze_after: PositiveInt | None = None
    """Updates after which the weights stay, above `warmup`, counting those that were left out;
    null: the weights never stop."""
    min_effective_domains: NonNegativeFloat = 0.0
    """Effective domains (exp of the entropy of the averaged weights) below which an event is
    logged when the weights fall there; at most those of the first mixture; 0: never."""
    general_guard: GeneralGuard | None = _GUARD
    """{max_rise, pull}: a pull, by default half, while the mean validation loss over the domains
    is more than max_rise above its best, by default 0.1 nats; to uniform weights where `initial`
    is matched and `prior` null, else to the prior. null: none, as in the paper. Without validation
    losses of domains the default does nothing."""
    probe: Probe | None = None
    """How alignments are measured and on how many sequences: type directional, in_flight or
    sharded. null: in flight, at rank 16 along a direction of 8 specific sequences that 10 updates
    use; where it cannot (several specific sets, a basis, norms, reweighted losses, filtered false)
    directional, on 2 sequences of each domain and 8 specific ones."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, data: object) -> object:
        """Give the keys that are absent what the preset says."""
        if not isinstance(data, Mapping):
            return data
        values = cast("Mapping[str, object]", data)
        return {**_PAPER, **values} if values.get("preset") == "paper" else values

    @property
    def update_overhead(self) -> float:
        """The key ``overhead``."""
        return self.overhead

    def default_probe(self, needs: AlignmentNeeds | TargetNeeds, *, in_flight: bool) -> Probe:
        """Return the cheapest probe that measures what is needed."""
        single = isinstance(needs, AlignmentNeeds) and needs.mixtures is None
        if in_flight and self.filtered and single and not needs.norms:
            return _IN_FLIGHT
        return _BETWEEN_STEPS

    @property
    def aligns_to_specific(self) -> bool:
        """True."""
        return True

    @property
    def reads_evaluations(self) -> bool:
        """Whether the general guard is on."""
        return self.general_guard is not None

    @property
    def basis_file(self) -> Path | None:
        """The key ``basis``."""
        return self.basis

    @property
    def least_effective_domains(self) -> float:
        """The key ``min_effective_domains``."""
        return self.min_effective_domains

    def files(self) -> Mapping[KeyPath, Path]:
        """Return the file of the basis."""
        return {} if self.basis is None else {("basis",): self.basis}

    def find_warnings(self, steps: int) -> Iterator[ConfigIssue]:
        """Yield a warm-up that takes the whole run."""
        if self.interval is None:
            return
        updates = steps // self.interval
        if self.interval <= steps and self.warmup >= updates:
            expected = f"fewer than the run's updates ({updates}), or the weights never move"
            yield ConfigIssue(("mixing", "warmup"), expected, str(self.warmup))

    def find_inconsistencies(self, specific: Sequence[str] | None) -> Iterator[ConfigIssue]:
        """Yield what cannot be measured the way that the section says."""
        if self.basis is not None:
            yield from self._over_basis()
        yield from self._safeguards()
        yield from self._of_filter()
        if self.probe is not None:
            yield from find_direction_inconsistencies(self.probe)
        yield from self._of_probe()
        if specific is None:
            return
        if not specific:
            expected = f"at least one set, which mixing.type {self.type} aligns to"
            yield ConfigIssue(("data", "specific"), expected, "none")
        if len(specific) > 1:
            yield from self._of_several(f"{len(specific)} sets in data.specific")

    def _over_basis(self) -> Iterator[ConfigIssue]:
        if isinstance(self.probe, InFlight):
            yield unusable_probe(
                self.probe, "with mixing.basis: a sequence of a batch is of one domain"
            )
        for key, rule in (("initial", self.initial), ("prior", self.prior)):
            if isinstance(rule, TemperatureWeights | UnimaxWeights):
                found = format_value(rule.model_dump())
            elif rule == "proportional":
                found = format_value(rule)
            else:
                continue
            expected = (
                "matched, uniform or {name: weight} with mixing.basis, whose distributions are of "
                "no size"
            )
            yield ConfigIssue(("mixing", key), expected, found)

    def _safeguards(self) -> Iterator[ConfigIssue]:
        if self.freeze_after is not None and self.freeze_after <= self.warmup:
            expected = f"more than mixing.warmup ({self.warmup}), or the weights never move"
            yield ConfigIssue(
                ("mixing", "freeze_after"), expected, format_value(self.freeze_after)
            )
        guard = self.general_guard
        given = "general_guard" in self.model_fields_set
        if given and guard is not None and guard.pull <= self.prior_pull:
            expected = (
                f"more than mixing.prior_pull ({self.prior_pull}), or the guard does nothing"
            )
            path = ("mixing", "general_guard", "pull")
            yield ConfigIssue(path, expected, format_value(guard.pull))

    def _of_filter(self) -> Iterator[ConfigIssue]:
        """Yield what does not go with filtered scores, or only with them."""
        if not self.filtered:
            if isinstance(self.probe, InFlight) and self.probe.refresh_every is None:
                path = ("mixing", "probe", "refresh_every")
                yield ConfigIssue(path, "a number with mixing.filtered false", "null")
            return
        if isinstance(self.step_size, AutoStep):
            expected = "a number with mixing.filtered, whose scores are standardized"
            found = format_value(self.step_size.model_dump())
            yield ConfigIssue(("mixing", "step_size"), expected, found)
        if self.min_signal > 0.0:
            expected = "0 with mixing.filtered, which shrinks scores by their noise"
            yield ConfigIssue(("mixing", "min_signal"), expected, format_value(self.min_signal))
        if self.combine == "worst":
            expected = "'sum' with mixing.filtered: the worst set may change with every update"
            yield ConfigIssue(("mixing", "combine"), expected, format_value(self.combine))

    def _of_probe(self) -> Iterator[ConfigIssue]:
        """Yield what the probe does not see."""
        if isinstance(self.probe, InFlight) and self.score in ("cosine", "clipped"):
            expected = (
                "'raw' or 'adam' with mixing.probe.type in_flight, "
                "which forms no domain's gradient"
            )
            yield ConfigIssue(("mixing", "score"), expected, format_value(self.score))
        if self.min_signal == 0.0 or self.probe is None:
            return
        if isinstance(self.probe, Sharded):
            expected = "0 with mixing.probe.type sharded, which measures no noise"
            yield ConfigIssue(("mixing", "min_signal"), expected, format_value(self.min_signal))
        elif self.probe.sequences_per_domain == 1:
            path = ("mixing", "probe", "sequences_per_domain")
            expected = "at least 2 with mixing.min_signal above 0, to estimate the noise"
            yield ConfigIssue(path, expected, "1")

    def _of_several(self, several: str) -> Iterator[ConfigIssue]:
        """Yield options that do not support several specific sets."""
        if self.min_signal > 0.0:
            expected = f"0 with {several}, as the noise of their combined scores is not estimated"
            yield ConfigIssue(("mixing", "min_signal"), expected, format_value(self.min_signal))
        if isinstance(self.probe, InFlight):
            yield unusable_probe(self.probe, f"with {several}: in_flight has a single direction")


@final
@dataclass(frozen=True, eq=False)
class Dga:
    """Algorithm 1 of Fan, Grangier, Ablin (arXiv 2410.02498), with optional guards.

    An update with scores ``s`` (the alignments ``a``, by default) is

        alpha     <- alpha * exp(step_size * s) / sum
        alpha_avg <- (1 - ema) * alpha_avg + ema * alpha

    Against collapse onto one domain, ``prior_pull = rho`` starts from ``alpha^(1-rho) prior^rho``
    instead of ``alpha`` (the step is then pulled towards the prior in KL), and ``floor`` projects
    ``alpha`` onto the mixtures that give every domain at least that much. Against noise,
    ``min_signal`` leaves out an update whose scores differ by less than that many times what
    their standard errors alone would make (`signal_to_noise`). Against leaps, ``max_change``
    shortens a step (`limit_change`, after the floor), ``warmup`` leaves out the first updates,
    and ``freeze_after`` all later ones: both mixtures then stay as they are. Against forgetting,
    ``general_guard`` raises rho while the mean validation loss over the domains is above its best
    (`GeneralGuard`). Against repetition, ``budget`` caps weights so that no domain is used up long
    before the end of the run (`EpochBudget`), and ``discount`` lowers those of domains that are
    repeated (`RepeatDiscount`). At their defaults, all of them do nothing, to the
    bit.

    If ``filtered``, weights do not add up scores for ever. They follow what is known of the scores
    from all updates, ``z`` standardized and shrunk by the noise (`megadga.mixers.filtering`):

        alpha     <- prior * exp(step_size * z) / sum

    and rho is the share of the prior in that (geometric).

    Attributes:
        initial: The first mixture, shape ``(K,)``. Without a floor, zeros stay zero for good.
        step_size: eta, at least 0, in units of one over the score's; 0 measures and never moves.
            Or `AutoStep`, which chooses one for each update.
        ema: beta, in ``(0, 1]``; 1 is no averaging.
        score: What enters the exponent: ``raw``, ``cosine``, ``clipped`` or ``adam``.
        floor: The least instantaneous (hence averaged) weight of a domain, in ``[0, 1/K]``.
        prior: The mixture that is pulled to, shape ``(K,)``, projected onto the floor as
            ``initial`` is; None means ``initial``.
        prior_pull: rho, in ``[0, 1]``, for each update.
        min_signal: Least `signal_to_noise` of an update's scores, at least 0; above 0, alignments
            must come with standard errors.
        max_change: Largest total variation between ``alpha`` before and after an update, in
            ``(0, 1]``: the share of a batch that it may move to other domains.
        warmup: Updates to leave out at the start, at least 0.
        freeze_after: Updates after which the mixtures stay, above ``warmup``, counting those that
            were left out; None for never.
        general_guard: When to pull harder, and how hard; None for never. Alignments then have to
            come with the loss of the last evaluation.
        general: Mixture that the guard pulls to, above 0, shape ``(K,)``; None: the prior.
        without_moments: What the score ``adam`` does before AdamW has second moments: ``refuse``
            is an error, ``raw`` measures inner products as they are.
        filtered: Whether weights follow filtered scores; ``initial`` is then where they start, and
            the prior what they are a multiple of.
        budget: How often domains may be repeated; None: as often as it comes. Alignments then have
            to come with the step and the epochs.
        discount: What repetitions are worth; None: as much as first passes. Else the same.

    Raises:
        ValueError: If a value is out of range, or the prior, without a floor, is 0 where
            ``initial`` is not.
    """

    initial: FloatArray
    step_size: float | AutoStep
    ema: float = 1.0
    score: ScoreName = "raw"
    floor: float = 0.0
    prior: FloatArray | None = None
    prior_pull: float = 0.0
    min_signal: float = 0.0
    max_change: float = 1.0
    warmup: int = 0
    freeze_after: int | None = None
    general_guard: GeneralGuard | None = None
    general: FloatArray | None = None
    without_moments: WithoutMoments = "refuse"
    filtered: bool = False
    budget: EpochBudget | None = None
    discount: RepeatDiscount | None = None

    def __post_init__(self) -> None:
        self._check_mixtures()
        self._check_step()
        if not 0.0 <= self.min_signal < float("inf"):
            raise ValueError(f"min_signal: expected a finite number >= 0, found {self.min_signal}")
        if not 0.0 < self.max_change <= 1.0:
            raise ValueError(f"max_change: expected 0 < max_change <= 1, found {self.max_change}")
        if self.warmup < 0:
            raise ValueError(f"warmup: expected at least 0 updates, found {self.warmup}")
        if self.freeze_after is not None and self.freeze_after <= self.warmup:
            raise ValueError(
                f"freeze_after: expected more than the {self.warmup} updates of warmup, "
                f"found {self.freeze_after}"
            )

    def _check_mixtures(self) -> None:
        initial = check_simplex(self.initial, name="initial")
        prior = initial if self.prior is None else check_simplex(self.prior, name="prior")
        if prior.shape != initial.shape:
            raise ValueError(f"prior: expected shape {initial.shape}, found {prior.shape}")
        if self.general is not None:
            general = check_simplex(self.general, name="general")
            if general.shape != initial.shape or not general.all():
                expected = f"shape {initial.shape} and weights above 0"
                raise ValueError(f"general: expected {expected}, found {general}")
        if self.floor == 0.0 and ((prior == 0.0) & (initial > 0.0)).any():
            raise ValueError("prior: expected > 0 wherever initial is, found 0")
        if not 0.0 <= self.prior_pull <= 1.0:
            raise ValueError(f"prior_pull: expected 0 <= prior_pull <= 1, found {self.prior_pull}")
        if not 0.0 <= self.floor <= 1.0 / initial.size:
            raise ValueError(f"floor: expected 0 <= floor <= 1/{initial.size}, found {self.floor}")

    def _check_step(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"score: expected one of {', '.join(SCORES)}, found {self.score!r}")
        if self.filtered and isinstance(self.step_size, AutoStep):
            raise ValueError(f"step_size: expected a number if filtered, found {self.step_size!r}")
        fixed = 0.0 if isinstance(self.step_size, AutoStep) else self.step_size
        if not 0.0 <= fixed < float("inf"):
            raise ValueError(f"step_size: expected a finite number >= 0, found {fixed}")
        if not 0.0 < self.ema <= 1.0:
            raise ValueError(f"ema: expected 0 < ema <= 1, found {self.ema}")

    @property
    def observes(self) -> AlignmentNeeds:
        """What the score needs measured."""
        needs = SCORES[self.score].needs
        if not needs.preconditioned:
            return needs
        return replace(needs, without_moments=self.without_moments)

    def init(self) -> MixtureState:
        """Return the initial mixture, projected onto the floor."""
        weights = project_to_floor(check_simplex(self.initial), self.floor)
        memory: Memory = {}
        if self.general_guard is not None:
            memory = self.general_guard.first()
        if self.filtered:
            memory = {**memory, **first_memory(weights.size)}
        return MixtureState(
            weights.copy(), weights.copy(), num_updates=0, num_skipped=0, memory=memory
        )

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement.

        One that is not finite, whose signal is below ``min_signal``, or that comes in the warm-up
        or after the freeze, is counted and left out; the guard takes in its general loss. So is,
        if ``filtered``, one that is raw as AdamW has no moments yet.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``, no standard
                errors although ``min_signal`` is above 0, or no epochs although there is a budget
            or a discount.
        """
        assert isinstance(observed, Alignments)
        check_domains("alignments", observed.dots.shape, state)
        state = self._watched(state, observed)
        if not self._counts(state, observed):
            return skip_update(state)
        memory = state.memory
        if (guard := self.general_guard) is not None:
            memory = guard.apply(memory, observed.general_loss)
        pull = self._pull(memory)
        scores = SCORES[self.score].of(observed)
        if self.filtered:
            memory = self._filtered(memory, scores, observed)
            step = self._from_prior(memory, pull)
        else:
            step = self._step(state.weights, scores, pull)
        if self.discount is not None:
            step = self.discount.apply(step, *_progress(observed))
        if self.budget is not None:
            step = project_to_caps(step, self.budget.caps(*_progress(observed)))
        weights = limit_change(state.weights, step, self.max_change)
        # In this form ema = 1 gives the weights, and weights that stay their average, to the bit.
        averaged = weights + (1.0 - self.ema) * (state.averaged_weights - weights)
        return replace(
            state,
            weights=weights,
            averaged_weights=averaged,
            num_updates=state.num_updates + 1,
            memory=memory,
        )

    def continue_from(self, state: MixtureState, weights: FloatArray) -> MixtureState:
        """Return a state from which the rule goes on at weights that were set by hand.

        If ``filtered``, the prior becomes the one from which the scores so far lead to these
        weights: scores keep what is known of them, and only later updates move the weights.
        Weights of 0 then stay 0.
        """
        memory = state.memory
        if self.filtered:
            assert not isinstance(self.step_size, AutoStep)
            scores = posterior(memory).standardized
            prior = self._pull(memory).prior_before(weights, scores, self.step_size)
            memory = {**memory, _PRIOR_BY_HAND: prior}
        return replace(
            state, weights=weights.copy(), averaged_weights=weights.copy(), memory=memory
        )

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change: log-weights and scores of the domains that stay.

        Filtered scores start anew with other specific sets, and what the guard remembers with
        other domains, as their mean loss is of another scale. The weights satisfy the floor.
        """
        restarted: frozenset[str] = frozenset()
        if not change.same_targets:
            restarted |= FILTER_MEMORY
        if not change.same_validation:
            restarted |= GUARD_MEMORY
        after = carry(state, self.init(), change, axes=DOMAIN_AXES, restarted=restarted)
        memory = after.memory
        by_hand = state.memory.get(_PRIOR_BY_HAND)
        if by_hand is not None and change.same_rule:
            memory = {**memory, _PRIOR_BY_HAND: change.mixture(by_hand)}
        return replace(
            after,
            weights=project_to_floor(after.weights, self.floor),
            averaged_weights=project_to_floor(after.averaged_weights, self.floor),
            memory=memory,
        )

    def _watched(self, state: MixtureState, observed: Alignments) -> MixtureState:
        if (guard := self.general_guard) is None:
            return state
        return replace(state, memory=guard.watch(state.memory, observed.general_loss))

    def _pull(self, memory: Memory) -> Pull:
        return pull_of(
            self.general_guard, memory, prior_pull=self.prior_pull, general=self.general
        )

    def _counts(self, state: MixtureState, observed: Alignments) -> bool:
        measured = state.num_updates + state.num_skipped
        if not is_active(measured, warmup=self.warmup, freeze_after=self.freeze_after):
            return False
        needs = SCORES[self.score].needs
        if self.filtered and needs.preconditioned and not observed.preconditioned:
            return False  # raw scores are of another scale
        return observed.is_finite() and self._signal(observed) >= self.min_signal

    def _filtered(self, memory: Memory, scores: FloatArray, observed: Alignments) -> Memory:
        counts = observed.counts
        if counts is None:
            counts = np.ones(scores.size, dtype=np.int64)
        errors = SCORES[self.score].standard_errors(observed)
        return {**memory, **filtered(memory, scores, counts, errors)}

    def _from_prior(self, memory: Memory, pull: Pull) -> FloatArray:
        """Return the prior's weights after a step along filtered scores, pulled back."""
        assert not isinstance(self.step_size, AutoStep)
        by_hand = memory.get(_PRIOR_BY_HAND)
        prior = self._floored_prior() if by_hand is None else by_hand
        scores = posterior(memory).standardized
        weights = pull.pulled(exponentiated_step(prior, scores, self.step_size), prior)
        return project_to_floor(weights, self.floor)

    def _step(self, weights: FloatArray, scores: FloatArray, pull: Pull) -> FloatArray:
        """Return the pulled weights after a step of mirror descent."""
        weights = pull.pulled(weights, self._floored_prior())
        size = self.step_size
        eta = size.for_scores(scores) if isinstance(size, AutoStep) else size
        return project_to_floor(exponentiated_step(weights, scores, eta), self.floor)

    def _signal(self, observed: Alignments) -> float:
        if self.min_signal == 0.0:
            return 0.0
        score = SCORES[self.score]
        if (errors := score.standard_errors(observed)) is None:
            expected = f"standard errors, as min_signal is {self.min_signal}"
            raise ValueError(f"alignments: expected {expected}, found none")
        return signal_to_noise(score.of(observed), errors)

    def _floored_prior(self) -> FloatArray:
        prior = self.initial if self.prior is None else self.prior
        return project_to_floor(check_simplex(prior), self.floor)


def _progress(observed: Alignments) -> tuple[FloatArray, int]:
    """Return the epochs drawn of each domain, and the step."""
    if observed.step is None or observed.epochs is None:
        raise ValueError("alignments: expected step and epochs, for repetition, found none")
    return observed.epochs, observed.step


def _budget(options: DgaOptions, context: RuleContext) -> EpochBudget | None:
    if options.epoch_budget is None or context.epochs_per_step is None:
        return None
    return EpochBudget(options.epoch_budget, context.epochs_per_step, context.total_steps)


def _discount(options: DgaOptions, context: RuleContext) -> RepeatDiscount | None:
    if options.repeat_decay is None or context.epochs_per_step is None:
        return None
    return RepeatDiscount(options.repeat_decay, context.epochs_per_step, context.total_steps)


def make_dga(options: DgaOptions, context: RuleContext) -> Scheduler:
    """Return the rule over the domains, or over basis distributions.

    Raises:
        ConfigError: If weights do not name exactly what the rule is over, or a setting is out of
            range for their number.
    """
    initial = context.weights("initial", options.initial)
    if options.floor * initial.size > 1.0:
        expected = f"at most 1 / {initial.size} {context.noun}"
        raise context.invalid("floor", expected=expected, found=str(options.floor))
    prior = None
    if options.prior is not None:
        prior = context.weights("prior", options.prior)
        if ((prior == 0.0) & (initial > 0.0)).any():
            expected = "a weight above 0 wherever mixing.initial has one"
            raise context.invalid("prior", expected=expected, found="0")
    matched = isinstance(options.initial, MatchedWeights)
    several = context.importance.size > 1
    rule = Dga(
        initial=initial,
        step_size=options.step_size,
        ema=options.ema,
        score="raw" if several else options.score,
        floor=options.floor,
        prior=prior,
        prior_pull=options.prior_pull,
        min_signal=options.min_signal,
        max_change=options.max_change,
        warmup=options.warmup,
        freeze_after=options.freeze_after,
        general_guard=options.general_guard,
        general=uniform_weights(initial.size) if matched and prior is None else None,
        without_moments=options.without_moments,
        filtered=options.filtered,
        budget=_budget(options, context),
        discount=_discount(options, context),
    )
    if not several:
        return rule
    return OverTargets(
        rule, context.importance, options.combine, options.score, options.without_moments
    )


RULES = (Rule(DgaOptions, make_dga),)
