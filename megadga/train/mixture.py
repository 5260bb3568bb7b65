"""From a run's `mixing` section to the scheduler over its domains."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.config.mixing import ExtensionOptions
from megadga.config.run import RunConfig
from megadga.data.domain import Domain, SequenceSet, trains_all_tokens
from megadga.data.folder import OpenedSplit, ShardFolder
from megadga.data.manifest import manifest_path
from megadga.errors import ConfigError
from megadga.mixers.base import AlignmentNeeds, Mixtures, Scheduler, TargetNeeds, row_sums
from megadga.mixers.basis import Basis, OverBasis, read_basis
from megadga.mixers.matching import matched_weights
from megadga.mixers.probing import Probe
from megadga.mixers.rule import RuleContext, make_scheduler
from megadga.mixers.safeguards import effective_domains
from megadga.mixers.static import (
    Static,
    proportional_weights,
    temperature_weights,
    uniform_weights,
    unimax_weights,
)
from megadga.mixers.updates import UpdateSteps, affordable_updates
from megadga.mixers.weights import MatchedWeights, TemperatureWeights, UnimaxWeights, Weights
from megadga.probes.overhead import num_measured, update_cost
from megadga.report.history import read_all_weights
from megadga.report.records import read_metrics
from megadga.section import ConfigIssue, KeyPath
from megadga.train.extension import make_extension
from megadga.train.models import model_size

if TYPE_CHECKING:
    from megadga.train.models import Architecture

MAX_NAMED = 5
"""Names in an error: there may be thousands."""


def misnamed(
    path: KeyPath,
    weights: Mapping[str, float],
    names: Sequence[str],
    excluded: AbstractSet[str],
    *,
    noun: str = "domain",
) -> Iterator[ConfigIssue]:
    """Yield what is wrong with the names that weights are written by.

    Args:
        path: Key of the weights.
        weights: As they are written.
        names: All that must have one, and may.
        excluded: Names of domains that are too short.
        noun: What the names are of.
    """
    known = set(names)
    unknown = [name for name in weights if name not in known]
    for name in unknown[:MAX_NAMED]:
        if name in excluded:
            expected = "the name of a domain that is not left out (data.too_short)"
            yield ConfigIssue((*path, name), expected, f"{weights[name]} in {name!r}")
            continue
        close = get_close_matches(name, names, n=1)
        hint = repr(close[0]) if close else ""
        yield ConfigIssue((*path, name), f"the name of a {noun}", repr(name), hint)
    if len(unknown) > MAX_NAMED:
        found = f"{len(unknown) - MAX_NAMED} more that are none"
        yield ConfigIssue(path, f"names of {noun}s", found)
    missing = [name for name in names if name not in weights]
    if missing:
        named = ", ".join(missing[:MAX_NAMED]) + (", ..." if len(missing) > MAX_NAMED else "")
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
        specific: Its specific sets, if any weights depend on them.
        excluded: Names of the domains that are too short for a window.
    """

    config: RunConfig
    domains: Sequence[Domain]
    specific: Sequence[SequenceSet]
    excluded: AbstractSet[str] = frozenset()

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
            ConfigError: If weights do not name exactly the domains, or are to be matched to
                specific sets and there are none.
            ShardError: If a shard is damaged whose tokens are counted.
        """
        tokens = np.array([domain.num_epoch_tokens for domain in self.domains], dtype=np.int64)
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
            case MatchedWeights():
                return self.matched(path, rule)
            case _:
                issues = list(misnamed(path, rule, self.names, self.excluded))
                if issues:
                    raise self.config.error(issues)
                weights = np.array([rule[name] for name in self.names], dtype=np.float64)
                return weights / weights.sum()

    def of_rows(self, path: KeyPath, rule: Weights, mixtures: Mixtures) -> FloatArray:
        """Return the weights over basis distributions that a rule gives, shape ``(n,)``.

        Args:
            path: Where the run has the rule.
            rule: Written in one of the ways that need no sizes.
            mixtures: The basis distributions.

        Raises:
            ConfigError: If they do not name exactly the basis distributions, or are to be matched
                to specific sets and there are none.
            ShardError: If a shard is damaged whose tokens are counted.
        """
        if isinstance(rule, MatchedWeights):
            return self.matched(path, rule, mixtures)
        if not isinstance(rule, Mapping):
            assert rule == "uniform", "what goes by tokens is refused where the file is read"
            return uniform_weights(len(mixtures.names))
        noun = "basis distribution"
        if issues := list(misnamed(path, rule, mixtures.names, frozenset(), noun=noun)):
            raise self.config.error(issues)
        weights = np.array([rule[name] for name in mixtures.names], dtype=np.float64)
        return weights / weights.sum()

    def matched(
        self, path: KeyPath, rule: MatchedWeights, mixtures: Mixtures | None = None
    ) -> FloatArray:
        """Return weights that are matched to the run's specific sets; see ``matched_weights``.

        Raises:
            ConfigError: If there are no specific sets.
            ShardError: If a shard is damaged.
        """
        if not self.specific:
            expected = "specific sets (data.specific) to match the domains to"
            raise self.config.invalid(*path, expected=expected, found="none")
        return matched_weights(
            self.domains,
            self.specific,
            uniform_share=rule.uniform_share,
            importance=importance_of_sets(self.config),
            mixtures=mixtures,
        )


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
    if (path := config.mixing.basis_file) is None:
        return None
    basis = read_basis(path)
    _check_clustering(path, basis, folders)
    names = [domain.name for domain in opened.domains]
    _check_domains(path, basis, names, opened.too_short.keys())
    mixtures, lost_mass = _over(path, basis, names)
    return RunBasis(mixtures, lost_mass, _digest(basis))


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
    path: Path, basis: Basis, names: Sequence[str], excluded: AbstractSet[str]
) -> None:
    known = {*names, *excluded}
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


@dataclass(frozen=True)
class Mixture:
    """What sets the weights, and what it needs measured.

    Attributes:
        scheduler: The rule.
        updates: After which optimizer steps there are updates; None: there are none.
        probe: How alignments are measured for an update; None: there are none.
        lost_mass: Share of a histogram that fell into domains that are left out, in ``[0, 1)``.
        min_effective_domains: Effective domains below which the weights are cause for alarm.
        objective: Mixture that the loss is over, shape ``(K,)``; None: that of the batches.
        resampled_uniformly: See `Sampling`.
    """

    scheduler: Scheduler
    updates: UpdateSteps | None = None
    probe: Probe | None = None
    lost_mass: float = 0.0
    min_effective_domains: float = 0.0
    objective: FloatArray | None = None
    resampled_uniformly: float | None = None


def make_mixture(
    config: RunConfig,
    domains: Sequence[Domain],
    *,
    specific: Sequence[SequenceSet] = (),
    excluded: AbstractSet[str] = frozenset(),
    basis: RunBasis | None = None,
    architecture: "Architecture | None" = None,
) -> Mixture:
    """Return the run's mixture over its domains.

    Args:
        config: The run.
        domains: Its training domains.
        specific: Its specific sets, if any weights depend on them.
        excluded: Names of domains that are too short for a window. What a histogram has there goes
            to the others, in proportion; a weight that is written in the configuration must not
            name them.
        basis: What the rule lives on in the domains' place, if the configuration says so.
        architecture: Of the run's model, if transformers has it.

    Raises:
        ConfigError: If weights or a histogram do not name exactly the domains, a setting is out of
            range for their number, or they hold too little for the run under `max_epochs`.
        ShardError: If a shard is damaged whose tokens weights are matched by.
    """
    resolver = WeightResolver(config, domains, specific, excluded)
    options = config.mixing
    if isinstance(options, ExtensionOptions):
        scheduler = make_extension(options, _context(resolver), tuple(config.data.specific))
    elif basis is None:
        scheduler = make_scheduler(options, _context(resolver))
    else:
        mixtures = basis.mixtures
        rule = make_scheduler(options, _context_of_rows(resolver, mixtures))
        scheduler = OverBasis(rule, mixtures)
    _check_alarm(config, scheduler)
    _check_resampled(config, domains)
    _check_supply(config, domains, scheduler.init().averaged_weights)
    probe, updates = choose_measurement(
        config,
        scheduler,
        num_domains=len(domains),
        matrices=lambda: model_size(config, domains[0].tokenizer, architecture).matrices,
    )
    return Mixture(
        scheduler,
        updates,
        probe,
        lost_mass=scheduler.lost_mass if isinstance(scheduler, Static) else 0.0,
        min_effective_domains=options.least_effective_domains,
        objective=_objective(resolver, scheduler),
        resampled_uniformly=options.resampled_uniformly,
    )


def _check_resampled(config: RunConfig, domains: Sequence[Domain]) -> None:
    """Refuse to draw windows by their norms where they differ in their number of targets."""
    others = [domain.name for domain in domains if not trains_all_tokens(domain)]
    if config.mixing.resampled_uniformly is not None and others:
        expected = "null with domains that are no streams of text"
        raise config.invalid("mixing", "resample", expected=expected, found=others[0])


def _objective(resolver: WeightResolver, scheduler: Scheduler) -> FloatArray | None:
    """Return the mixture that the loss is over.

    Raises:
        ConfigError: If it does not name exactly the domains, or has weight in one that is never
            sampled.
    """
    config, key = resolver.config, ("training", "domain_weights")
    if config.training.domain_weights is None:
        return None
    objective = resolver.of(key, config.training.domain_weights)
    never = np.flatnonzero((scheduler.init().averaged_weights == 0.0) & (objective > 0.0))
    if scheduler.observes is None and never.size:
        found = f"{resolver.names[int(never[0])]}, which never is"
        raise config.invalid(*key, expected="weights of domains that are sampled", found=found)
    return objective


def _context(resolver: WeightResolver) -> RuleContext:
    config = resolver.config
    return RuleContext(
        domains=tuple(resolver.names),
        tokens=np.array([domain.num_epoch_tokens for domain in resolver.domains], dtype=np.int64),
        total_steps=config.training.steps,
        weights=lambda key, rule: resolver.of(_path(key), rule),
        excluded=frozenset(resolver.excluded),
        epochs_per_step=config.training.global_batch_size
        / np.array([domain.num_sequences for domain in resolver.domains], dtype=np.float64),
        importance=importance_of_sets(config),
        error=config.error,
        read_history=lambda metrics: read_all_weights(read_metrics(metrics)),
    )


def _context_of_rows(resolver: WeightResolver, mixtures: Mixtures) -> RuleContext:
    """Return the context of a rule that weights basis distributions."""
    config = resolver.config
    return RuleContext(
        domains=mixtures.names,
        tokens=np.zeros(len(mixtures.names), dtype=np.int64),
        total_steps=config.training.steps,
        weights=lambda key, rule: resolver.of_rows(_path(key), rule, mixtures),
        noun="basis distributions",
        importance=importance_of_sets(config),
        error=config.error,
    )


def _path(key: str | KeyPath) -> KeyPath:
    return ("mixing", key) if isinstance(key, str) else ("mixing", *key)


def choose_measurement(
    config: RunConfig,
    scheduler: Scheduler,
    *,
    num_domains: int,
    matrices: Callable[[], Sequence[tuple[int, int]]],
) -> tuple[Probe | None, UpdateSteps | None]:
    """Return how a run measures alignments, and when it updates the weights.

    The interval is what the section says, or as short as the cost that it allows.

    Args:
        config: The run.
        scheduler: Its rule.
        num_domains: ``K``.
        matrices: Returns the shapes of the model's matrices; called only if the cost decides.
    """
    needs = scheduler.observes
    probe = None
    if isinstance(needs, AlignmentNeeds | TargetNeeds):
        probe = _probe(config, needs)
    if (interval := config.mixing.update_interval) is not None:
        return probe, UpdateSteps(interval)
    if probe is None or not isinstance(needs, AlignmentNeeds | TargetNeeds):
        return probe, None
    cost = update_cost(
        probe,
        num_domains=num_measured(needs, num_domains),
        global_batch_size=config.training.global_batch_size,
        needs=needs,
        matrices=matrices(),
    )
    overhead, steps = config.mixing.update_overhead, config.training.steps
    return probe, affordable_updates(cost, overhead=overhead, total_steps=steps)


def _probe(config: RunConfig, needs: AlignmentNeeds | TargetNeeds) -> Probe:
    training = config.training
    in_flight = training.loss_reweighting is None and training.global_batch_size > 1
    in_flight &= not config.data.dialogues and training.domain_weights is None
    chosen = config.mixing.alignment_probe
    return config.mixing.default_probe(needs, in_flight=in_flight) if chosen is None else chosen


def _check_alarm(config: RunConfig, scheduler: Scheduler) -> None:
    """Check that the first mixture has no fewer effective domains than the alarm's bound."""
    first = effective_domains(scheduler.init().averaged_weights)
    least = config.mixing.least_effective_domains
    # Of K equal weights, rounding may find a little less than K.
    if least > first * (1.0 + ROUNDING):
        expected = f"at most {first:.4g}, the effective domains of the first mixture"
        path = ("mixing", "min_effective_domains")
        raise config.invalid(*path, expected=expected, found=str(least))


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
