"""From the description of a way to measure to what measures it on an engine."""

from collections.abc import Sequence

from megadga.alignment.aligner import Aligner
from megadga.alignment.drawing import ProbeDraws
from megadga.alignment.in_flight import InFlightAligner
from megadga.alignment.methods import Directional, InFlight, LowRank, Probing, Sharded
from megadga.alignment.protocols import Measurement
from megadga.alignment.targets import Target, TargetAligner
from megadga.errors import UnsupportedEngineError
from megadga.mixing.scheduler import AlignmentNeeds, TargetNeeds
from megadga.shards.sequences import SequenceSet
from megadga.zero.aim import AimSource, WholeGradient
from megadga.zero.directional import DirectionalProbe
from megadga.zero.engine import Engine
from megadga.zero.in_flight import InFlightProbe
from megadga.zero.loss import Loss
from megadga.zero.low_rank import LowRankGradient
from megadga.zero.moments import check_moments
from megadga.zero.passes import ProbePasses
from megadga.zero.sharded import ShardedProbe
from megadga.zero.sight import ProbeCheck
from megadga.zero.specific import Preconditioning


def make_measurement(
    engine: Engine,
    domains: Sequence[SequenceSet],
    specific: SequenceSet | None,
    *,
    probing: Probing,
    needs: AlignmentNeeds,
    loss: Loss,
    seed: int,
) -> Measurement:
    """Return what measures the alignments that a rule needs. Collective.

    It is checked on a few sequences.

    Args:
        engine: A DeepSpeed engine of ZeRO stage 0-3 in fp32 or bf16.
        domains: The training domains, ``K`` of them.
        specific: The specific set; not read if the domains are compared with their own mean.
        probing: The way, and the sequences.
        needs: What else than inner products the rule reads.
        loss: Of a batch of tokens, computed through the module that it is given.
        seed: Addresses the probe streams.

    Raises:
        UnsupportedEngineError: If the engine, or its optimizer, uses what was not tested, or the
            module or its loss cannot be measured.
        ValueError: If the way cannot measure what is needed, or a specific set is missing.
    """
    if needs.target == "domains":
        specific = None
    elif specific is None:
        raise ValueError("specific: expected a specific set to align with, found None")
    passes = ProbePasses(engine, loss=loss)
    draws = ProbeDraws(
        domains, specific, budget=probing.budget, seed=seed, mixtures=needs.mixtures
    )
    preconditioning = Preconditioning(needs.preconditioned, probing.without_moments)
    if needs.preconditioned:
        check_moments(engine)
    match probing.method:
        case Sharded():
            ProbeCheck(passes, draws, derivatives=False)
            return Aligner(ShardedProbe(passes, preconditioning), draws)
        case Directional(direction):
            source = _source(passes, direction, preconditioning, seed)
            check = ProbeCheck(passes, draws, derivatives=True)
            probe = DirectionalProbe(passes, source, check, norms=needs.norms)
            return Aligner(probe, draws)
        case InFlight(direction, refresh_every):
            if needs.norms:
                raise ValueError(
                    "probing: expected a way that sees whole gradients, for a score that needs "
                    "their norms, found in flight"
                )
            if needs.mixtures is not None:
                raise ValueError(
                    "probing: expected a way that draws sequences, for a rule over mixtures of "
                    "domains, found in flight, where a batch has sequences of few domains each"
                )
            source = _source(passes, direction, preconditioning, seed)
            check = ProbeCheck(passes, draws, derivatives=True)
            if passes.counts_targets:
                raise UnsupportedEngineError(
                    "probe: expected a loss that is the mean over all targets, in flight, where "
                    "training's own loss is differentiated, found one that leaves out some; "
                    "measure with probe type directional"
                )
            probe = InFlightProbe(passes, source, check)
            return InFlightAligner(probe, draws, refresh_every=refresh_every)


def make_target_measurement(
    engine: Engine,
    domains: Sequence[SequenceSet],
    specific: Sequence[SequenceSet],
    *,
    probing: Probing,
    needs: TargetNeeds,
    loss: Loss,
    seed: int,
) -> TargetAligner:
    """Return what measures the alignments with several specific sets that a rule needs.

    Args:
        engine: As `make_measurement`, like all that is not said here.
        domains: The training domains, ``K`` of them.
        specific: The specific sets, ``M`` of them, at least one.
        probing: The way, and the sequences of each set.
        needs: What else than inner products and losses the rule reads.
        loss: Mean loss of a batch of tokens.
        seed: Addresses the probe streams: the domains' sequences are the same for every target.

    Raises:
        UnsupportedEngineError: As `make_measurement`.
        ValueError: If the way cannot measure what is needed.
    """
    sharded = False
    match probing.method:
        case InFlight():
            raise ValueError(
                "probing: expected a way that measures between steps, for a rule for several "
                "specific sets, found in flight, where training is watched along one direction"
            )
        case Sharded():
            sharded = True
        case Directional():
            pass
    targets: list[Target] = []
    for index, each in enumerate(specific):
        of_one = AlignmentNeeds(
            norms=needs.norms and (index == 0 or sharded),  # which are the same for every target
            preconditioned=needs.preconditioned,
            mixtures=needs.mixtures,
        )
        measurement = make_measurement(
            engine, domains, each, probing=probing, needs=of_one, loss=loss, seed=seed
        )
        draws = ProbeDraws(
            domains, each, budget=probing.budget, seed=seed, mixtures=needs.mixtures
        )
        targets.append(Target(measurement, draws))
    return TargetAligner(targets, ProbePasses(engine, loss=loss).mean_loss)


def _source(
    passes: ProbePasses, direction: LowRank | None, preconditioning: Preconditioning, seed: int
) -> AimSource:
    if direction is None:
        return WholeGradient(passes, preconditioning)
    if preconditioning.asked:
        raise ValueError(
            "direction: expected the whole gradient, which AdamW's moments divide number by "
            "number, found thin factors"
        )
    return LowRankGradient(passes, direction, seed=seed)
