"""What a run's mixture must not ask of how alignments are measured. Knows no domain."""

from collections.abc import Iterator

from megadga.config.mixing import DgaMixing, Mixing, TemperatureWeights
from megadga.config.places import Mistake, shown
from megadga.config.probes import DirectionalProbe, InFlightProbe, ShardedProbe
from megadga.config.sections import TrainingSection

_OF_NORMS = ("cosine", "clipped")
_IN_FLIGHT = "mixing.probe.type in_flight"


def find_mixing_contradictions(mixing: DgaMixing) -> Iterator[Mistake]:
    """Yield what a section says that cannot be measured the way that it says."""
    if mixing.basis is not None:
        yield from _over_basis(mixing)
    match mixing.probe:
        case DirectionalProbe() as probe:
            yield from _direction(mixing, probe)
        case InFlightProbe() as probe:
            yield from _direction(mixing, probe)
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


def find_batch_contradictions(mixing: Mixing, training: TrainingSection) -> Iterator[Mistake]:
    """Yield what a run's batches are too small for."""
    in_flight = isinstance(mixing, DgaMixing) and isinstance(mixing.probe, InFlightProbe)
    if in_flight and training.global_batch_size == 1:
        expected = f"at least 2 with {_IN_FLIGHT}, which compares the sequences of a batch"
        yield Mistake(("training", "global_batch_size"), expected, "1")


def _over_basis(mixing: DgaMixing) -> Iterator[Mistake]:
    if isinstance(mixing.probe, InFlightProbe):
        expected = (
            "directional or sharded with mixing.basis: a sequence of a batch is of one domain"
        )
        yield Mistake(("mixing", "probe", "type"), expected, shown(mixing.probe.type))
    for key, rule in (("initial", mixing.initial), ("prior", mixing.prior)):
        if isinstance(rule, TemperatureWeights):
            found = shown(rule.model_dump())
        elif rule == "proportional":
            found = shown(rule)
        else:
            continue
        expected = (
            "uniform or {name: weight} with mixing.basis, whose distributions hold no tokens"
        )
        yield Mistake(("mixing", key), expected, found)


def _direction(mixing: DgaMixing, probe: DirectionalProbe | InFlightProbe) -> Iterator[Mistake]:
    section = ("mixing", "probe")
    if probe.direction == "full":
        if probe.direction_interval > 1:
            expected = "1 with mixing.probe.direction full, or a low-rank one"
            found = shown(probe.direction_interval)
            yield Mistake((*section, "direction_interval"), expected, found)
    elif mixing.score == "adam":
        expected = "'full' with mixing.score adam, which divides element by element"
        found = shown(probe.direction.model_dump())
        yield Mistake((*section, "direction"), expected, found)
