"""Makes the measurement of a probe's options on an engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import SequenceSet
from megadga.errors import UnsupportedEngineError
from megadga.mixers.base import AlignmentNeeds, Alignments, TargetAlignments, TargetNeeds
from megadga.mixers.probing import Directional, InFlight, Probe, Sharded
from megadga.probes.check import ProbeCheck
from megadga.probes.directional import DirectionalMeasurement
from megadga.probes.directions import (
    DirectionSource,
    Preconditioning,
    WholeGradient,
    check_moments,
)
from megadga.probes.engine import Engine
from megadga.probes.factored import FactoredGradient
from megadga.probes.in_flight import InFlightMeasurement, InFlightPasses
from megadga.probes.loss import Loss
from megadga.probes.low_rank import LowRankGradient
from megadga.probes.passes import ProbePasses
from megadga.probes.protocols import Measurement
from megadga.probes.sequences import PackedSequences, ProbeSequenceSampler, TrainedBatch
from megadga.probes.sharded import ShardedMeasurement

MeanLoss = Callable[[PackedSequences], float]
"""From sequences to their mean loss over all targets, nats per token, at the model's present
parameters. Collective; equal bits on every rank, and no trace in the engine."""


@dataclass(frozen=True)
class Target:
    """One specific set.

    Attributes:
        measurement: Of the domains' alignments with it, between steps.
        draws: The sequences that are measured, the same of the domains for every target.
    """

    measurement: Measurement
    draws: ProbeSequenceSampler


@final
class TargetMeasurement:
    """Measures each target separately, and its loss.

    Costs as much as all of them, and a forward pass over their specific sequences.

    Args:
        targets: The specific sets, ``M`` of them, at least one.
        mean_loss: Measures their losses.
    """

    def __init__(self, targets: Sequence[Target], mean_loss: MeanLoss) -> None:
        assert targets
        self._targets = tuple(targets)
        self._mean_loss = mean_loss

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Do nothing: the step that is trained does not matter."""

    def measure(self, update: int) -> TargetAlignments:
        """Measure update number ``update`` (from 0). Collective; equal bits on every rank."""
        found = [target.measurement.measure(update) for target in self._targets]
        losses = [
            self._mean_loss(PackedSequences([target.draws.specific(update)]))
            for target in self._targets
        ]
        return _stacked(found, np.array(losses))

    def close(self) -> None:
        """Do nothing: the model is held only while it is measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        return {"targets": [target.measurement.state_dict() for target in self._targets]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        for target, each in zip(self._targets, state["targets"], strict=True):
            target.measurement.load_state_dict(each)


def _stacked(found: Sequence[Alignments], losses: FloatArray) -> TargetAlignments:
    """Combine the targets' alignments; the domains' norms are those of the first."""
    errors = [each.standard_errors for each in found if each.standard_errors is not None]
    energies = np.array([each.direction_energy for each in found])
    return TargetAlignments(
        dots=np.stack([each.dots for each in found]),
        losses=losses,
        target_squared_norms=np.array([each.specific_squared_norm for each in found]),
        squared_norms=found[0].squared_norms,
        standard_errors=np.stack(errors) if len(errors) == len(found) else None,
        direction_energies=energies if (energies < 1.0).any() else None,
        preconditioned=all(each.preconditioned for each in found),
    )


def make_measurement(
    engine: Engine,
    domains: Sequence[SequenceSet],
    specific: SequenceSet | None,
    *,
    probe: Probe,
    needs: AlignmentNeeds,
    loss: Loss,
    seed: int,
    numbers: IntArray | None = None,
) -> Measurement:
    """Return the measurement of the alignments that a rule needs. Collective.

    It is checked on a few sequences.

    Args:
        engine: A DeepSpeed engine of ZeRO stage 0-3 in fp32, bf16 or fp16.
        domains: The training domains, ``K`` of them.
        specific: The specific set; not read if the domains are compared with their own mean.
        probe: How, and on how many sequences.
        needs: What else than inner products the rule reads.
        loss: Of a batch of tokens, computed through the module that it is given.
        seed: Addresses the probe streams.
        numbers: See `ProbeSequenceSampler`.

    Raises:
        UnsupportedEngineError: If the engine, or its optimizer, uses what was not tested, or the
            module or its loss cannot be measured.
        ValueError: If the probe cannot measure what is needed, or a specific set is missing.
    """
    if needs.target == "domains":
        specific = None
    elif specific is None:
        raise ValueError("specific: expected a specific set to align with, found None")
    _check_needs(engine, probe, needs)
    passes = ProbePasses(engine, loss=loss)
    draws = ProbeSequenceSampler(
        domains, specific, probe=probe, seed=seed, mixtures=needs.mixtures, numbers=numbers
    )
    return _measurement(passes, draws, _check(passes, [draws], probe), probe, needs, seed)


def make_target_measurement(
    engine: Engine,
    domains: Sequence[SequenceSet],
    specific: Sequence[SequenceSet],
    *,
    probe: Probe,
    needs: TargetNeeds,
    loss: Loss,
    seed: int,
    numbers: IntArray | None = None,
) -> TargetMeasurement:
    """Return the measurement of alignments with several specific sets.

    Args:
        engine: As `make_measurement`, like all that is not said here.
        domains: The training domains, ``K`` of them.
        specific: The specific sets, ``M`` of them, at least one.
        probe: How, and on how many sequences of each set.
        needs: What else than inner products and losses the rule reads.
        loss: Mean loss of a batch of tokens.
        seed: Addresses the probe streams: the domains' sequences are the same for every target.
        numbers: See `ProbeSequenceSampler`.

    Raises:
        UnsupportedEngineError: As `make_measurement`.
        ValueError: If the probe cannot measure what is needed.
    """
    _check_needs(engine, probe, needs)
    passes = ProbePasses(engine, loss=loss)
    draws = [
        ProbeSequenceSampler(
            domains, each, probe=probe, seed=seed, mixtures=needs.mixtures, numbers=numbers
        )
        for each in specific
    ]
    check = _check(passes, draws, probe)
    targets: list[Target] = []
    for index, each in enumerate(draws):
        of_one = AlignmentNeeds(
            # The domains' norms are the same for every target.
            norms=needs.norms and (index == 0 or isinstance(probe, Sharded)),
            preconditioned=needs.preconditioned,
            without_moments=needs.without_moments,
            mixtures=needs.mixtures,
        )
        targets.append(Target(_measurement(passes, each, check, probe, of_one, seed), each))
    return TargetMeasurement(targets, passes.mean_loss)


def _check(passes: ProbePasses, draws: Sequence[ProbeSequenceSampler], probe: Probe) -> ProbeCheck:
    return ProbeCheck(passes, draws, derivatives=not isinstance(probe, Sharded))


def _measurement(
    passes: ProbePasses,
    draws: ProbeSequenceSampler,
    check: ProbeCheck,
    probe: Probe,
    needs: AlignmentNeeds,
    seed: int,
) -> Measurement:
    preconditioning = Preconditioning(needs.preconditioned, needs.without_moments)
    match probe:
        case Sharded():
            return ShardedMeasurement(passes, preconditioning, draws)
        case Directional():
            source = _source(passes, probe, preconditioning, seed)
            return DirectionalMeasurement(passes, source, check, draws, norms=needs.norms)
        case InFlight():
            if passes.counts_targets:
                raise UnsupportedEngineError(
                    "probe: expected a loss that is the mean over all targets, in flight, where "
                    "training's own loss is differentiated, found one that leaves out some; "
                    "measure with probe type directional"
                )
            source = _source(passes, probe, preconditioning, seed)
            in_flight = InFlightPasses(passes, source, check)
            return InFlightMeasurement(in_flight, draws, refresh_every=probe.refresh_every)


def _check_needs(engine: Engine, probe: Probe, needs: AlignmentNeeds | TargetNeeds) -> None:
    """Check that a probe can measure what is needed.

    Raises:
        UnsupportedEngineError: If the optimizer has no second moments that are needed.
        ValueError: If it cannot.
    """
    if needs.preconditioned:
        check_moments(engine)
    if isinstance(probe, InFlight):
        if isinstance(needs, TargetNeeds):
            raise ValueError(  # noqa: TRY004  (no type is wrong)
                "probe: expected one that measures between steps, for a rule for several "
                "specific sets, found in flight, where training is measured along one direction"
            )
        if needs.norms:
            raise ValueError(
                "probe: expected one that sees whole gradients, for a score that needs their "
                "norms, found in flight"
            )
        if needs.mixtures is not None:
            raise ValueError(
                "probe: expected one that draws sequences, for a rule over mixtures of domains, "
                "found in flight, where a batch has sequences of few domains each"
            )


def _source(
    passes: ProbePasses,
    probe: Directional | InFlight,
    preconditioning: Preconditioning,
    seed: int,
) -> DirectionSource:
    if probe.direction == "full":
        return WholeGradient(passes, preconditioning)
    interval = probe.direction_interval
    if preconditioning.asked:
        return FactoredGradient(
            passes,
            probe.direction,
            interval=interval,
            seed=seed,
            preconditioning=preconditioning,
        )
    return LowRankGradient(passes, probe.direction, interval=interval, seed=seed)
