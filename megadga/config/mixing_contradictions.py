"""What a run's mixture must not ask of how alignments are measured. Knows no domain."""

from collections.abc import Iterator, Sequence

from megadga.config.extending import ExtensionMixing
from megadga.config.grape import GrapeMixing
from megadga.config.mixing import DgaMixing, Mixing
from megadga.config.places import Mistake, shown
from megadga.config.probes import DirectionalProbe, InFlightProbe, ShardedProbe
from megadga.config.rules import DogeMixing, ScheduleMixing
from megadga.config.sections import TrainingSection
from megadga.config.weights import TemperatureWeights, UnimaxWeights

_OF_NORMS = ("cosine", "clipped")
_IN_FLIGHT = "mixing.probe.type in_flight"


def find_mixing_contradictions(mixing: DgaMixing) -> Iterator[Mistake]:
    """Yield what a section says that cannot be measured the way that it says."""
    if mixing.basis is not None:
        yield from _over_basis(mixing)
    yield from _guards(mixing)
    match mixing.probe:
        case DirectionalProbe() as probe:
            yield from _direction(probe, mixing.score)
        case InFlightProbe() as probe:
            yield from _direction(probe, mixing.score)
            if mixing.score in _OF_NORMS:
                expected = f"'raw' or 'adam' with {_IN_FLIGHT}, which forms no domain's gradient"
                yield Mistake(("mixing", "score"), expected, shown(mixing.score))
        case ShardedProbe():
            if mixing.min_signal > 0.0:
                expected = "0 with mixing.probe.type sharded, which measures no noise"
                yield Mistake(("mixing", "min_signal"), expected, shown(mixing.min_signal))
            return
    if mixing.min_signal > 0.0 and mixing.probe.sequences_per_domain == 1:
        path = ("mixing", "probe", "sequences_per_domain")
        expected = "at least 2 with mixing.min_signal above 0, or there is no noise to see"
        yield Mistake(path, expected, "1")


def find_rule_contradictions(
    mixing: Mixing | ExtensionMixing, specific: Sequence[str] | None
) -> Iterator[Mistake]:
    """Yield what a rule's section says that cannot be done, or not the way that it says.

    Args:
        mixing: The section.
        specific: Names of the specific sets; None: they have mistakes of their own.
    """
    match mixing:
        case ScheduleMixing():
            yield from find_schedule_contradictions(mixing)
        case ExtensionMixing():
            yield from find_extension_contradictions(mixing)
        case DgaMixing():
            yield from find_mixing_contradictions(mixing)
            yield from _targets(mixing, specific)
        case GrapeMixing():
            yield from _targets(mixing, specific)
        case DogeMixing():
            yield from find_doge_contradictions(mixing, specific)
        case _:
            pass


def _targets(mixing: DgaMixing | GrapeMixing, specific: Sequence[str] | None) -> Iterator[Mistake]:
    """Yield what cannot be said of so many specific sets."""
    if specific is None:
        return
    if not specific:
        expected = f"at least one set, which mixing.type {mixing.type} aligns to"
        yield Mistake(("data", "specific"), expected, "none")
    several = f"{len(specific)} sets in data.specific"
    if isinstance(mixing, GrapeMixing):
        several = "mixing.type grape"
        if isinstance(mixing.probe, DirectionalProbe):
            yield from _direction(mixing.probe, mixing.score)
    elif len(specific) < 2:
        return
    elif mixing.min_signal > 0.0:
        expected = f"0 with {several}, of whose scores together the noise is not known"
        yield Mistake(("mixing", "min_signal"), expected, shown(mixing.min_signal))
    if isinstance(mixing.probe, InFlightProbe):
        expected = f"directional or sharded with {several}: a step is watched along one direction"
        yield Mistake(("mixing", "probe", "type"), expected, shown(mixing.probe.type))


def find_doge_contradictions(
    mixing: DogeMixing, specific: Sequence[str] | None
) -> Iterator[Mistake]:
    """Yield what a section says that cannot be measured the way that it says."""
    match mixing.probe:
        case DirectionalProbe() as probe:
            yield from _held_direction(probe)
        case InFlightProbe():
            expected = "directional or sharded with mixing.type doge, which needs every norm"
            yield Mistake(("mixing", "probe", "type"), expected, shown(mixing.probe.type))
        case ShardedProbe():
            pass
    if specific is not None and mixing.target == "specific" and len(specific) != 1:
        expected = "exactly one set, which mixing.type doge aligns to"
        yield Mistake(("data", "specific"), expected, ", ".join(specific) or "none")


def _guards(mixing: DgaMixing) -> Iterator[Mistake]:
    if mixing.freeze_after is not None and mixing.freeze_after <= mixing.warmup:
        expected = f"more than mixing.warmup ({mixing.warmup}), or the weights never move"
        yield Mistake(("mixing", "freeze_after"), expected, shown(mixing.freeze_after))
    guard = mixing.general_guard
    if guard is not None and guard.pull <= mixing.prior_pull:
        expected = f"more than mixing.prior_pull ({mixing.prior_pull}), or the guard does nothing"
        yield Mistake(("mixing", "general_guard", "pull"), expected, shown(guard.pull))


def find_extension_contradictions(mixing: ExtensionMixing) -> Iterator[Mistake]:
    """Yield what an extension's probe cannot do, whatever the rule observes."""
    if isinstance(mixing.probe, DirectionalProbe | InFlightProbe):
        yield from _held_direction(mixing.probe)


def find_schedule_contradictions(mixing: ScheduleMixing) -> Iterator[Mistake]:
    """Yield what keeps a section from being one schedule."""
    said = [key for key in ("stages", "csv", "replay") if getattr(mixing, key) is not None]
    if len(said) != 1:
        expected = "exactly one of stages, csv and replay"
        yield Mistake(("mixing",), expected, " and ".join(said) or "none")
        return
    if mixing.replay is not None and mixing.between == "linear":
        expected = "'constant' with mixing.replay, as the weights of a run are"
        yield Mistake(("mixing", "between"), expected, shown(mixing.between))
    if mixing.stages is not None:
        yield from _stages([stage.step for stage in mixing.stages])


def _stages(steps: Sequence[int]) -> Iterator[Mistake]:
    if not steps:
        yield Mistake(("mixing", "stages"), "at least one stage", "none")
    for index, step in enumerate(steps):
        path = ("mixing", "stages", index, "step")
        if index == 0 and step != 0:
            yield Mistake(path, "0, where training begins", str(step))
        if index > 0 and step <= steps[index - 1]:
            yield Mistake(path, f"more than the {steps[index - 1]} of the stage before", str(step))


def find_batch_contradictions(
    mixing: Mixing | ExtensionMixing, training: TrainingSection
) -> Iterator[Mistake]:
    """Yield what a run's batches cannot be measured on."""
    measured = isinstance(mixing, DgaMixing | ExtensionMixing)
    if not (measured and isinstance(mixing.probe, InFlightProbe)):
        return
    if training.loss_reweighting is not None:
        expected = f"null with {_IN_FLIGHT}, which measures on batches that train on the mean loss"
        found = training.loss_reweighting.strategy
        yield Mistake(("training", "loss_reweighting"), expected, shown(found))
    if training.global_batch_size == 1:
        expected = f"at least 2 with {_IN_FLIGHT}, which compares the sequences of a batch"
        yield Mistake(("training", "global_batch_size"), expected, "1")


def _over_basis(mixing: DgaMixing) -> Iterator[Mistake]:
    if isinstance(mixing.probe, InFlightProbe):
        expected = (
            "directional or sharded with mixing.basis: a sequence of a batch is of one domain"
        )
        yield Mistake(("mixing", "probe", "type"), expected, shown(mixing.probe.type))
    for key, rule in (("initial", mixing.initial), ("prior", mixing.prior)):
        if isinstance(rule, TemperatureWeights | UnimaxWeights):
            found = shown(rule.model_dump())
        elif rule == "proportional":
            found = shown(rule)
        else:
            continue
        expected = (
            "uniform or {name: weight} with mixing.basis, whose distributions hold no tokens"
        )
        yield Mistake(("mixing", key), expected, found)


def _direction(probe: DirectionalProbe | InFlightProbe, score: str) -> Iterator[Mistake]:
    yield from _held_direction(probe)
    if probe.direction != "full" and score == "adam":
        expected = "'full' with mixing.score adam, which divides element by element"
        found = shown(probe.direction.model_dump())
        yield Mistake(("mixing", "probe", "direction"), expected, found)


def _held_direction(probe: DirectionalProbe | InFlightProbe) -> Iterator[Mistake]:
    if probe.direction == "full" and probe.direction_interval > 1:
        expected = "1 with mixing.probe.direction full, or a low-rank one"
        path = ("mixing", "probe", "direction_interval")
        yield Mistake(path, expected, shown(probe.direction_interval))
