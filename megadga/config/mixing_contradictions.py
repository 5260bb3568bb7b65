"""What a run's mixture must not ask of how alignments are measured. Knows no domain."""

from collections.abc import Iterator

from megadga.config.mixing import DgaMixing, Mixing
from megadga.config.places import Mistake, shown
from megadga.config.probes import DirectionalProbe, InFlightProbe, ShardedProbe
from megadga.config.sections import TrainingSection

_OF_NORMS = ("cosine", "clipped")
_IN_FLIGHT = "mixing.probe.type in_flight"


def find_mixing_contradictions(mixing: DgaMixing) -> Iterator[Mistake]:
    """Yield what a section says that cannot be measured the way that it says."""
    yield from _guards(mixing)
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


def _guards(mixing: DgaMixing) -> Iterator[Mistake]:
    if mixing.freeze_after is not None and mixing.freeze_after <= mixing.warmup:
        expected = f"more than mixing.warmup ({mixing.warmup}), or the weights never move"
        yield Mistake(("mixing", "freeze_after"), expected, shown(mixing.freeze_after))


def find_batch_contradictions(mixing: Mixing, training: TrainingSection) -> Iterator[Mistake]:
    """Yield what a run's batches are too small for."""
    in_flight = isinstance(mixing, DgaMixing) and isinstance(mixing.probe, InFlightProbe)
    if in_flight and training.global_batch_size == 1:
        expected = f"at least 2 with {_IN_FLIGHT}, which compares the sequences of a batch"
        yield Mistake(("training", "global_batch_size"), expected, "1")


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
