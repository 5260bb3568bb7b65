"""From a run's `mixing` section to the scheduler over its domains."""

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from megadga.arrays import FloatArray, check_simplex
from megadga.config.histogram import read_histogram
from megadga.config.mixing import ExtensionMixing
from megadga.config.run import RunConfig
from megadga.data.domain import Domain
from megadga.data.folder import OpenedSplit, ShardFolder
from megadga.data.manifest import manifest_path
from megadga.errors import ConfigError
from megadga.mixers.base import (
    AlignmentNeeds,
    LossNeeds,
    Mixtures,
    Needs,
    Scheduler,
    StepNeeds,
    row_sums,
)
from megadga.mixers.basis import Basis, OverBasis, read_basis
from megadga.mixers.dga import Dga, DgaMixing
from megadga.mixers.doge import Doge, DogeMixing
from megadga.mixers.doremi import Doremi, DoremiMixing
from megadga.mixers.extension import RuleContext
from megadga.mixers.grape import Grape, GrapeMixing
from megadga.mixers.odm import Odm, OdmMixing
from megadga.mixers.probing import (
    DirectionalProbe,
    EnergyDirection,
    InFlightProbe,
    Probe,
    RankDirection,
    ShardedProbe,
)
from megadga.mixers.safeguards import GeneralGuard, GeneralGuardSection, effective_domains
from megadga.mixers.schedule import (
    Between,
    Replay,
    Schedule,
    ScheduleMixing,
    replay,
    schedule_of_columns,
)
from megadga.mixers.scores import AutoStep, SpreadStep, StepSize
from megadga.mixers.static import (
    ImportanceMixing,
    ProportionalMixing,
    Static,
    StaticMixing,
    UniformMixing,
    importance_weights,
    proportional_weights,
    temperature_weights,
    uniform_weights,
    unimax_weights,
)
from megadga.mixers.targets import OverTargets
from megadga.mixers.weights import TemperatureWeights, UnimaxWeights, Weights
from megadga.probes.methods import (
    Directional,
    InFlight,
    LowRank,
    Method,
    ProbeBudget,
    Probing,
    Sharded,
)
from megadga.report.history import read_weights
from megadga.section import ConfigIssue, KeyPath, format_value

MOST_NAMED = 5
"""Names in an error: there may be thousands."""


def misnamed(
    path: KeyPath,
    weights: Mapping[str, float],
    names: Sequence[str],
    left_out: AbstractSet[str],
    *,
    noun: str = "domain",
) -> Iterator[ConfigIssue]:
    """Yield what is wrong with the names that weights are written by.

    Args:
        path: Key of the weights.
        weights: As they are written.
        names: All that must have one, and may.
        left_out: Names of domains that are too short.
        noun: What the names are of.
    """
    known = set(names)
    unknown = [name for name in weights if name not in known]
    for name in unknown[:MOST_NAMED]:
        if name in left_out:
            expected = "the name of a domain that is not left out (data.too_short)"
            yield ConfigIssue((*path, name), expected, f"{weights[name]} in {name!r}")
            continue
        close = get_close_matches(name, names, n=1)
        hint = repr(close[0]) if close else ""
        yield ConfigIssue((*path, name), f"the name of a {noun}", repr(name), hint)
    if len(unknown) > MOST_NAMED:
        found = f"{len(unknown) - MOST_NAMED} more that are none"
        yield ConfigIssue(path, f"names of {noun}s", found)
    missing = [name for name in names if name not in weights]
    if missing:
        named = ", ".join(missing[:MOST_NAMED]) + (", ..." if len(missing) > MOST_NAMED else "")
        found = f"none for {len(missing)} ({named})"
        yield ConfigIssue(path, f"a weight for each of the {len(names)} {noun}s", found)


def importance_of_sets(config: RunConfig) -> FloatArray:
    """Return the importance of the run's specific sets, in their order, shape ``(M,)``."""
    return np.array([target.importance for target in config.data.specific.values()])


@final
@dataclass(frozen=True, eq=False)
class WeightResolver:
    """Turns mixtures of a run's file into weights over its domains.

    Attributes:
        config: The run.
        domains: Its training domains, ``K`` of them.
        left_out: Names of those that are too short for a window.
    """

    config: RunConfig
    domains: Sequence[Domain]
    left_out: AbstractSet[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The domains' names, in order."""
        return [domain.name for domain in self.domains]

    def of(self, path: KeyPath, rule: Weights) -> FloatArray:
        """Return the weights that a rule gives, shape ``(K,)``.

        Args:
            path: Where the run has the rule.
            rule: Written in one of the ways.

        Raises:
            ConfigError: If weights do not name exactly the domains.
        """
        tokens = np.array([domain.num_tokens for domain in self.domains], dtype=np.int64)
        match rule:
            case "uniform":
                return uniform_weights(len(self.domains))
            case "proportional":
                return proportional_weights(tokens)
            case TemperatureWeights():
                return temperature_weights(tokens, rule.temperature)
            case UnimaxWeights():
                training, length = self.config.training, self.config.model.sequence_length
                budget = training.steps * training.global_batch_size * length
                return unimax_weights(tokens, budget=budget, max_epochs=rule.max_epochs)
            case _:
                issues = list(misnamed(path, rule, self.names, self.left_out))
                if issues:
                    raise self.config.error(issues)
                weights = np.array([rule[name] for name in self.names], dtype=np.float64)
                return weights / weights.sum()


WithoutMoments = Literal["refuse", "raw"]


def make_probing(probe: Probe, without_moments: WithoutMoments = "refuse") -> Probing:
    """Return how alignments are measured.

    Args:
        probe: Its section.
        without_moments: What a score by AdamW's moments does before there are any.
    """
    budget = ProbeBudget(probe.sequences_per_domain, probe.specific_sequences)
    return Probing(_method(probe), budget, without_moments)


def _method(probe: Probe) -> Method:
    match probe:
        case DirectionalProbe():
            return Directional(_low_rank(probe))
        case InFlightProbe():
            return InFlight(_low_rank(probe), refresh_every=probe.refresh_every)
        case ShardedProbe():
            return Sharded()


def _low_rank(probe: DirectionalProbe | InFlightProbe) -> LowRank | None:
    interval = probe.direction_interval
    match probe.direction:
        case RankDirection(rank=rank):
            return LowRank(rank, interval=interval)
        case EnergyDirection(energy=energy, max_rank=rank):
            return LowRank(rank, energy, interval)
        case "full":
            return None


@dataclass(frozen=True, eq=False)
class RunBasis:
    """Basis distributions over the domains that a run has.

    Attributes:
        mixtures: Each over the domains in the order of the weights.
        lost_mass: Share of each in domains that are left out, in ``[0, 1)``, shape ``(n,)``: it
            went to the others in proportion.
        digest: Equal for equal content of the file.
    """

    mixtures: Mixtures
    lost_mass: FloatArray
    digest: str


def open_basis(
    config: RunConfig, folders: Sequence[ShardFolder], opened: OpenedSplit
) -> RunBasis | None:
    """Read the basis that a run's rule lives on; None if it lives on the domains.

    Args:
        config: The run.
        folders: Where its domains lie.
        opened: Its domains, and those that are left out.

    Raises:
        ConfigError: If the file is missing or damaged, is of another clustering or other domains
            than the shards, or a row lies in domains that are left out.
    """
    if not isinstance(config.mixing, DgaMixing) or (path := config.mixing.basis) is None:
        return None
    basis = read_basis(path)
    _check_clustering(path, basis, folders)
    names = [domain.name for domain in opened.domains]
    _check_domains(path, basis, names, opened.too_short.keys())
    mixtures, lost_mass = _over(path, basis, names)
    return RunBasis(mixtures, lost_mass, _digest(basis))


def weights_of_rows(config: RunConfig, key: str, rule: Weights, mixtures: Mixtures) -> FloatArray:
    """Return the weights that a rule under ``mixing.<key>`` gives, shape ``(n,)``.

    Raises:
        ConfigError: If they do not name exactly the basis distributions.
    """
    if not isinstance(rule, Mapping):
        assert rule == "uniform", "what goes by tokens is refused where the configuration is read"
        return uniform_weights(len(mixtures.names))
    noun = "basis distribution"
    if issues := list(misnamed(("mixing", key), rule, mixtures.names, frozenset(), noun=noun)):
        raise config.error(issues)
    weights = np.array([rule[name] for name in mixtures.names], dtype=np.float64)
    return weights / weights.sum()


def _check_clustering(path: Path, basis: Basis, folders: Sequence[ShardFolder]) -> None:
    for folder in folders:
        grouping = folder.manifest.grouping
        found = None if grouping is None else grouping.classifier
        if found != basis.clustering:
            raise ConfigError(
                f"{manifest_path(folder.source.path)}: grouping.classifier: expected "
                f"{basis.clustering[:16]}, the clustering that {path} is of, "
                f"found {'none' if found is None else found[:16]}"
            )


def _check_domains(
    path: Path, basis: Basis, names: Sequence[str], left_out: AbstractSet[str]
) -> None:
    known = {*names, *left_out}
    if len(basis.domains) != len(known):
        raise ConfigError(
            f"{path}: domains: expected the {len(known)} of the shards, found {len(basis.domains)}"
        )
    for name in basis.domains:
        if name not in known:
            raise ConfigError(f"{path}: domains: expected those of the shards, found {name}")


def _over(path: Path, basis: Basis, names: Sequence[str]) -> tuple[Mixtures, FloatArray]:
    """Return the rows over the domains that a run has, and what they had in others."""
    places = {name: place for place, name in enumerate(names)}
    columns = np.array([places.get(name, -1) for name in basis.domains], dtype=np.int64)
    rows = np.repeat(np.arange(len(basis.names), dtype=np.int64), np.diff(basis.indptr))
    indices = columns[basis.indices]
    kept = indices >= 0
    counts = np.bincount(rows[kept], minlength=len(basis.names))
    if not counts.all():
        raise ConfigError(
            f"{path}: {basis.names[int(np.argmin(counts))]}: expected a share in a domain that is "
            "long enough for a sequence (data.too_short), found none"
        )
    rows, indices, shares = rows[kept], indices[kept], basis.data[kept]
    order = np.lexsort((indices, rows))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    masses = row_sums(shares, indptr)
    if not kept.all():
        shares = shares / masses[rows]
    lost = np.zeros(len(counts)) if kept.all() else np.maximum(1.0 - masses, 0.0)
    return Mixtures(basis.names, len(names), indptr, indices[order], shares[order]), lost


def _digest(basis: Basis) -> str:
    digest = hashlib.sha256(basis.clustering.encode())
    for names in (basis.names, basis.domains):
        digest.update("\n".join(names).encode() + b"\0")
    for array in (basis.indptr, basis.indices, basis.data):
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


ROUNDING = 1e-9
"""Relative error that an entropy may come with."""


def make_dga(mixing: DgaMixing, weights: WeightResolver, basis: RunBasis | None) -> Scheduler:
    """Return the rule over the domains, or over basis distributions.

    Raises:
        ConfigError: If weights do not name exactly what the rule is over, or a setting is out of
            range for their number.
    """
    config = weights.config
    if basis is None:
        scheduler: Scheduler = _dga_rule(
            config,
            mixing,
            lambda key, rule: weights.of(("mixing", key), rule),
            f"{len(weights.domains)} domains",
        )
    else:
        mixtures = basis.mixtures
        rule = _dga_rule(
            config,
            mixing,
            lambda key, rule: weights_of_rows(config, key, rule, mixtures),
            f"{len(mixtures.names)} basis distributions",
        )
        scheduler = OverBasis(rule, mixtures)
    _check_alarm(config, mixing.min_effective_domains, scheduler)
    return scheduler


def _dga_rule(
    config: RunConfig,
    mixing: DgaMixing,
    weights_of: Callable[[str, Weights], FloatArray],
    over: str,
) -> Scheduler:
    """Return the rule, given the weights under a key of its section, and what they are over."""
    initial = weights_of("initial", mixing.initial)
    if mixing.floor * initial.size > 1.0:
        expected = f"at most 1 / {over}"
        raise config.invalid("mixing", "floor", expected=expected, found=str(mixing.floor))
    prior = None
    if mixing.prior is not None:
        prior = weights_of("prior", mixing.prior)
        if ((prior == 0.0) & (initial > 0.0)).any():
            expected = "a weight above 0 wherever mixing.initial has one"
            raise config.invalid("mixing", "prior", expected=expected, found="0")
    importance = importance_of_sets(config)
    rule = Dga(
        initial=initial,
        step_size=_step_size(mixing.step_size),
        ema=mixing.ema,
        score=mixing.score if importance.size == 1 else "raw",
        floor=mixing.floor,
        prior=prior,
        prior_pull=mixing.prior_pull,
        min_signal=mixing.min_signal,
        max_change=mixing.max_change,
        warmup=mixing.warmup,
        freeze_after=mixing.freeze_after,
        general_guard=_general_guard(mixing.general_guard),
    )
    if importance.size == 1:
        return rule
    return OverTargets(rule, importance, mixing.combine, mixing.score)


def _step_size(section: StepSize) -> float | AutoStep:
    return AutoStep(section.spread) if isinstance(section, SpreadStep) else section


def _general_guard(section: GeneralGuardSection | None) -> GeneralGuard | None:
    return None if section is None else GeneralGuard(section.max_rise, section.pull)


def _check_alarm(config: RunConfig, least: float, scheduler: Scheduler) -> None:
    """Check that the first mixture is above the alarm, which tells when one falls below."""
    first = effective_domains(scheduler.init().averaged_weights)
    # Of K equal weights, rounding may find a little less than K.
    if least > first * (1.0 + ROUNDING):
        expected = f"at most {first:.4g}, the effective domains of the first mixture"
        path = ("mixing", "min_effective_domains")
        raise config.invalid(*path, expected=expected, found=str(least))


def make_doge(mixing: DogeMixing, weights: WeightResolver) -> Doge:
    """Return the rule over the domains.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    return Doge(
        weights.of(("mixing", "initial"), mixing.initial),
        step_size=mixing.step_size,
        target=mixing.target,
        max_score=mixing.max_score,
    )


def make_grape(mixing: GrapeMixing, weights: WeightResolver) -> Grape:
    """Return the rule for the run's specific sets, whose weights start at their importance.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    importance = importance_of_sets(weights.config)
    return Grape(
        weights.of(("mixing", "initial"), mixing.initial),
        importance / importance.sum(),
        step_size=mixing.step_size,
        task_step_size=mixing.task_step_size,
        task_smoothing=mixing.task_smoothing,
        score=mixing.score,
    )


def make_schedule(mixing: ScheduleMixing, weights: WeightResolver) -> Schedule:
    """Return the schedule that a section has, or that the file holds which it names.

    Args:
        mixing: The section.
        weights: Makes weights over the run's domains.

    Raises:
        ConfigError: If weights do not name exactly the domains, or a file holds no schedule.
    """
    if mixing.replay is not None:
        path = ("mixing", "replay", "initial")
        initial = weights.of(path, mixing.replay.initial)
        return _replayed(mixing.replay, initial, weights.domains)
    if mixing.csv is not None:
        return _of_table(mixing.csv, weights.domains, mixing.between)
    stages = mixing.stages or ()
    rows = [
        weights.of(("mixing", "stages", index, "weights"), stage.weights)
        for index, stage in enumerate(stages)
    ]
    steps = np.array([stage.step for stage in stages], dtype=np.int64)
    return Schedule(steps, np.stack(rows), mixing.between)


def _replayed(section: Replay, initial: FloatArray, domains: Sequence[Domain]) -> Schedule:
    history = read_weights(section.metrics)
    names = tuple(domain.name for domain in domains)
    if history.names != names:
        raise ConfigError(
            f"{section.metrics}: expected the weights of this run's {len(names)} domains, in "
            f"their order, found {len(history.names)}: {', '.join(history.names[:5])} ..."
        )
    try:
        return replay(initial, history.steps, history.weights)
    except ValueError as error:
        raise ConfigError(f"{section.metrics}: {error}") from None


def _of_table(path: Path, domains: Sequence[Domain], between: Between) -> Schedule:
    columns = _read_columns(path)
    steps = columns.pop("step")
    if not (np.isfinite(steps) & (steps == np.floor(steps))).all():
        raise ConfigError(f"{path}: step: expected whole numbers, found {steps.tolist()[:5]}")
    names = [domain.name for domain in domains]
    try:
        return schedule_of_columns(steps.astype(np.int64), columns, names, between=between)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_columns(path: Path) -> dict[str, FloatArray]:
    """Return the columns of a table under what its first line calls them, `step` among them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: expected a table, found {error}") from None
    if len(set(header)) < len(header) or "step" not in header:
        raise ConfigError(
            f"{path}: expected a first line with step and each domain once, found {header[:5]}"
        )
    try:
        table = np.array([[float(cell) for cell in line] for line in lines], dtype=np.float64)
        table = table.reshape(len(lines), len(header))
    except ValueError as error:
        expected = f"lines of {len(header)} numbers"
        raise ConfigError(f"{path}: expected {expected}, found {error}") from None
    return dict(zip(header, table.T, strict=True))


def make_extension(
    mixing: ExtensionMixing, weights: WeightResolver
) -> tuple[Scheduler, Probing | None]:
    """Return an extension's rule, and how its alignments are measured; None: it observes none.

    Args:
        mixing: The section.
        weights: Makes weights over the run's domains.

    Raises:
        ConfigError: If the extension does not take the options, its rule is none over the domains,
            or it observes something else than the section, or the run, is made for.
    """
    config = weights.config
    scheduler = _extension_rule(mixing, weights)
    needs = scheduler.observes
    if issues := list(_unobserved(config, mixing, needs)):
        raise config.error(issues)
    if not isinstance(needs, AlignmentNeeds):
        return scheduler, None
    probe = DirectionalProbe() if mixing.probe is None else mixing.probe
    if issues := list(_unmeasurable(probe, needs)):
        raise config.error(issues)
    return scheduler, make_probing(probe)


def _extension_rule(mixing: ExtensionMixing, weights: WeightResolver) -> Scheduler:
    installed, extension = mixing.origin()
    config = weights.config
    tokens = np.array([domain.num_tokens for domain in weights.domains], dtype=np.int64)
    context = RuleContext(
        domains=tuple(weights.names),
        tokens=tokens,
        total_steps=config.training.steps,
        weights=lambda key, rule: weights.of(("mixing", key), rule),
    )
    try:
        scheduler: Any = extension.make(mixing, context)
    except ValueError as error:
        expected = f"options that {installed.distribution} accepts"
        raise config.invalid("mixing", expected=expected, found=str(error)) from None
    if found := _no_rule(scheduler, tokens.size):
        expected = f"a rule over {tokens.size} domains from {installed}"
        raise config.invalid("mixing", "type", expected=expected, found=found)
    return scheduler


def _no_rule(scheduler: Any, num_domains: int) -> str:
    """Return what keeps an object from being a rule over the domains; empty: it is one."""
    try:
        weights = check_simplex(scheduler.init().averaged_weights)
    except (AttributeError, ValueError) as error:
        return str(error)
    return "" if weights.size == num_domains else f"weights of shape {weights.shape}"


def _unobserved(
    config: RunConfig, mixing: ExtensionMixing, needs: Needs | None
) -> Iterator[ConfigIssue]:
    """Yield what the rule observes otherwise than the section and the run have it."""
    path = ("mixing", "interval")
    if needs is None and mixing.interval is not None:
        yield ConfigIssue(path, "null: the rule never moves the weights", str(mixing.interval))
    if needs is not None and mixing.interval is None:
        yield ConfigIssue(path, "optimizer steps between updates of the weights", "nothing")
    match needs:
        case AlignmentNeeds(target="specific"):
            if len(config.data.specific) != 1:
                expected = f"exactly one set, which mixing.type {mixing.type} aligns to"
                found = ", ".join(config.data.specific) or "none"
                yield ConfigIssue(("data", "specific"), expected, found)
        case None:
            yield from _no_probe(mixing, "nothing")
        case StepNeeds():
            yield from _no_probe(mixing, "the step")
        case LossNeeds(reference=False):
            yield from _no_probe(mixing, "losses of training")
        case _:
            expected = (
                "a rule that observes what a run measures: alignments with the specific set, "
                "losses of training, the step, or nothing"
            )
            yield ConfigIssue(("mixing", "type"), expected, f"one that observes {needs}")


def _no_probe(mixing: ExtensionMixing, observed: str) -> Iterator[ConfigIssue]:
    if mixing.probe is not None:
        expected = f"null: the rule observes {observed}, and no alignments"
        yield ConfigIssue(("mixing", "probe"), expected, f"type {mixing.probe.type}")


def _unmeasurable(probe: Probe, needs: AlignmentNeeds) -> Iterator[ConfigIssue]:
    """Yield what the probe cannot measure of what the rule needs."""
    section = ("mixing", "probe")
    if isinstance(probe, InFlightProbe):
        other = "directional or sharded: the rule observes"
        if needs.norms:
            expected = f"{other} norms of the domains' gradients"
            yield ConfigIssue((*section, "type"), expected, format_value(probe.type))
        if needs.mixtures is not None:
            expected = f"{other} mixtures of domains"
            yield ConfigIssue((*section, "type"), expected, format_value(probe.type))
    if isinstance(probe, ShardedProbe) or probe.direction == "full" or not needs.preconditioned:
        return
    expected = "'full': the rule observes a gradient that is divided element by element"
    yield ConfigIssue(
        (*section, "direction"), expected, format_value(probe.direction.model_dump())
    )


Fixed = StaticMixing | UniformMixing | ProportionalMixing | TemperatureWeights | UnimaxWeights


@dataclass(frozen=True)
class Mixture:
    """What sets the weights, and what it needs measured.

    Attributes:
        scheduler: The rule.
        interval: Optimizer steps between updates; None: there are none.
        probing: How alignments are measured for an update; None: there are none.
        lost_mass: Share of a histogram that fell into domains that are left out, in ``[0, 1)``.
        min_effective_domains: Effective domains below which the weights are cause for alarm.
    """

    scheduler: Scheduler
    interval: int | None = None
    probing: Probing | None = None
    lost_mass: float = 0.0
    min_effective_domains: float = 0.0


def make_mixture(
    config: RunConfig,
    domains: Sequence[Domain],
    *,
    left_out: AbstractSet[str] = frozenset(),
    basis: RunBasis | None = None,
) -> Mixture:
    """Return the run's mixture over its domains.

    Args:
        config: The run.
        domains: Its training domains.
        left_out: Names of those that are too short for a window. What a histogram has there goes
            to the others, in proportion; a weight that is written in the configuration must not
            name them.
        basis: What the rule lives on in the domains' place, if the configuration says so.

    Raises:
        ConfigError: If weights or a histogram do not name exactly the domains, a setting is out of
            range for their number, or they hold too little for the run under `max_epochs`.
    """
    weights = WeightResolver(config, domains, left_out)
    match config.mixing:
        case DgaMixing() as mixing:
            mixture = Mixture(
                make_dga(mixing, weights, basis),
                mixing.interval,
                make_probing(mixing.probe, mixing.without_moments),
                min_effective_domains=mixing.min_effective_domains,
            )
        case GrapeMixing() as mixing:
            mixture = Mixture(
                make_grape(mixing, weights), mixing.interval, make_probing(mixing.probe)
            )
        case (
            StaticMixing()
            | UniformMixing()
            | ProportionalMixing()
            | TemperatureWeights()
            | UnimaxWeights()
        ) as mixing:
            mixture = Mixture(Static(_fixed(mixing, weights)))
        case ExtensionMixing() as mixing:
            scheduler, probing = make_extension(mixing, weights)
            mixture = Mixture(scheduler, mixing.interval, probing)
        case ImportanceMixing() as mixing:
            mixture = _importance(mixing.histogram, weights)
        case ScheduleMixing() as mixing:
            mixture = Mixture(make_schedule(mixing, weights), mixing.interval)
        case OdmMixing() as mixing:
            mixture = Mixture(_odm(mixing, weights), mixing.interval)
        case DogeMixing() as mixing:
            mixture = Mixture(
                make_doge(mixing, weights), mixing.interval, make_probing(mixing.probe)
            )
        case DoremiMixing() as mixing:
            mixture = Mixture(_doremi(mixing, weights), mixing.interval)
    _check_supply(config, domains, mixture.scheduler.init().averaged_weights)
    return mixture


def _fixed(mixing: Fixed, weights: WeightResolver) -> FloatArray:
    """Return weights that stay as they are, shape ``(K,)``."""
    match mixing:
        case StaticMixing():
            return weights.of(("mixing", "weights"), mixing.weights)
        case UniformMixing() | ProportionalMixing():
            return weights.of(("mixing",), mixing.type)
        case TemperatureWeights() | UnimaxWeights():
            return weights.of(("mixing",), mixing)


def _odm(mixing: OdmMixing, weights: WeightResolver) -> Odm:
    return Odm(
        weights.of(("mixing", "initial"), mixing.initial),
        smoothing=mixing.smoothing,
        warmup=mixing.warmup,
        reward=mixing.reward,
    )


def _doremi(mixing: DoremiMixing, weights: WeightResolver) -> Doremi:
    return Doremi(
        weights.of(("mixing", "initial"), mixing.initial),
        step_size=mixing.step_size,
        smoothing=mixing.smoothing,
    )


def _importance(path: Path, run: WeightResolver) -> Mixture:
    """Return the mixture that gives each domain its share of the histogram in a file."""
    histogram = read_histogram(path)
    kept = {name: mass for name, mass in histogram.items() if name not in run.left_out}
    try:
        weights = importance_weights(kept, run.names)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    lost = sum(histogram[name] for name in histogram.keys() & run.left_out)
    return Mixture(Static(weights), lost_mass=lost / (lost + sum(kept.values())))


def _check_supply(config: RunConfig, domains: Sequence[Domain], weights: FloatArray) -> None:
    """Check that the domains hold enough sequences for the whole run under the cap."""
    if config.sampling.max_epochs is None:
        return
    sizes = np.array([domain.num_sequences for domain in domains])[weights > 0.0]
    wanted = config.training.steps * config.training.global_batch_size
    if np.floor(sizes * config.sampling.max_epochs).sum() < wanted:
        raise config.invalid(
            "sampling",
            "max_epochs",
            expected=f"at least {wanted / sizes.sum():.4g} for {wanted} sequences from domains "
            f"that hold {sizes.sum()}",
            found=str(config.sampling.max_epochs),
        )
