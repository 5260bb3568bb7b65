"""From what a rule observes to what observes it in a training loop. Knows no rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from megadga.alignment.methods import Probing
from megadga.alignment.overhead import num_measured, predicted_overhead
from megadga.mixing.scheduler import AlignmentNeeds, LossNeeds, Needs, StepNeeds, TargetNeeds
from megadga.plugin.observing import AlignmentObserver, LossObserver, Observer, StepObserver
from megadga.shards.domain import Domain
from megadga.shards.sequences import SequenceSet
from megadga.zero.engine import Engine
from megadga.zero.loss import Loss
from megadga.zero.measuring import make_measurement, make_target_measurement


@dataclass(frozen=True, eq=False)
class Measured:
    """What alignments would be measured on.

    Attributes:
        engine: A DeepSpeed engine.
        domains: The training domains, ``K`` of them.
        specific: The specific sets, in the order of a rule's targets.
        loss: Mean loss of tokens through a module.
        seed: Addresses the probe streams.
    """

    engine: Engine
    domains: Sequence[Domain]
    specific: Sequence[SequenceSet]
    loss: Loss
    seed: int


@dataclass(frozen=True, eq=False)
class Observation:
    """How a rule's updates come by what they observe.

    Attributes:
        needs: What that is; None: the rule never moves.
        observer: Observes it; None exactly if there are no needs.
        predicted_overhead: Share of training's sequences that it reads more.
    """

    needs: Needs | None
    observer: Observer | None
    predicted_overhead: float = 0.0


def as_targets(specific: SequenceSet | Sequence[SequenceSet] | None) -> tuple[SequenceSet, ...]:
    """Return the specific sets.

    Raises:
        ValueError: If two have one name.
    """
    if specific is None:
        return ()
    targets = tuple(specific) if isinstance(specific, Sequence) else (specific,)
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ValueError(f"specific: expected different names, found {', '.join(names)}")
    return targets


def make_observation(
    needs: Needs | None,
    measured: Measured,
    *,
    losses: LossObserver,
    probing: Probing,
    interval: int,
) -> Observation:
    """Return what observes for a rule.

    Args:
        needs: What the rule asks for.
        measured: What alignments are measured on.
        losses: Is told the losses of training.
        probing: How alignments are measured.
        interval: Optimizer steps between updates.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on the engine.
        ValueError: If that is nothing that a training loop is observed for, or it is for another
            number of specific sets than there are.
    """
    match needs:
        case None:
            return Observation(None, None)
        case StepNeeds():
            return Observation(needs, StepObserver())
        case LossNeeds():
            return Observation(needs, losses)
        case AlignmentNeeds():
            return _of_alignments(needs, measured, probing=probing, interval=interval)
        case TargetNeeds():
            return _of_targets(needs, measured, probing=probing, interval=interval)
        case _:
            raise ValueError(
                "scheduler: expected a rule that observes alignments, "
                f"losses of training, the step, or nothing, found one that observes {needs}"
            )


def _of_alignments(
    needs: AlignmentNeeds, measured: Measured, *, probing: Probing, interval: int
) -> Observation:
    if needs.target == "specific":
        _check_number(measured.specific, 1)
    measurement = make_measurement(
        measured.engine,
        measured.domains,
        measured.specific[0] if needs.target == "specific" else None,
        probing=probing,
        needs=needs,
        loss=measured.loss,
        seed=measured.seed,
    )
    share = _predicted(needs, measured, probing=probing, interval=interval)
    return Observation(needs, AlignmentObserver(measurement), share)


def _of_targets(
    needs: TargetNeeds, measured: Measured, *, probing: Probing, interval: int
) -> Observation:
    _check_number(measured.specific, needs.num_targets)
    measurement = make_target_measurement(
        measured.engine,
        measured.domains,
        measured.specific,
        probing=probing,
        needs=needs,
        loss=measured.loss,
        seed=measured.seed,
    )
    share = _predicted(needs, measured, probing=probing, interval=interval)
    return Observation(needs, AlignmentObserver(measurement), share)


def _check_number(specific: Sequence[SequenceSet], expected: int) -> None:
    if len(specific) != expected:
        sets = "a specific set" if expected == 1 else f"{expected} specific sets"
        found = ", ".join(each.name for each in specific) or "None"
        raise ValueError(f"specific: expected {sets} to align with, found {found}")


def _predicted(
    needs: AlignmentNeeds | TargetNeeds, measured: Measured, *, probing: Probing, interval: int
) -> float:
    overhead = predicted_overhead(
        probing,
        num_domains=num_measured(needs, len(measured.domains)),
        interval=interval,
        global_batch_size=measured.engine.train_batch_size(),
        needs=needs,
    )
    return overhead.share
