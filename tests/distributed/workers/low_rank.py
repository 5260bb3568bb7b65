"""Compares thin factors of the specific gradient with the whole of it in float64."""

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from megadga.mixers.probing import Directional, InFlight, LowRank, LowRankEnergy
from megadga.probes import low_rank as factoring
from megadga.probes.directions import UpdateDirection
from megadga.probes.gradients import Direction
from megadga.probes.low_rank import LowRankGradient
from megadga.probes.passes import ProbePasses
from tests.distributed.workers.exactness import measured_numbers
from tests.support.probe_cases import ProbeCase
from tests.support.references import Reference
from tests.support.trainings import SEED, Training, start_training

RANK = 8
"""Of a gradient of one specific sequence, which has as many tokens; wide matrices have more."""
ONE_SEQUENCE = (3, 1)
SHARE = 0.9
TEST_COLUMNS = 4
"""Columns that the estimate of what is left out is made of."""


def low_rank(
    training: Training, rank: LowRank | LowRankEnergy, *, interval: int = 1
) -> LowRankGradient:
    passes = ProbePasses(training.engine, loss=training.probed.loss)
    return LowRankGradient(passes, rank, interval=interval, seed=SEED)


def parameters_of(training: Training) -> list[nn.Parameter]:
    return [p for p in training.engine.module.parameters() if p.requires_grad]


def pieces(training: Training, direction: Direction) -> list[Tensor]:
    """The whole of each piece, float64."""
    whole: list[Tensor] = []
    for parameter in parameters_of(training):
        factors = direction.factors(parameter)
        if factors is None:
            piece = direction.dense(parameter).double()
        else:
            piece = factors.left.double() @ factors.right.double().T
        whole.append(piece / direction.scale)
    return whole


def as_vector(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def bits(training: Training, direction: Direction) -> list[float]:
    """Numbers that differ if one bit of a direction does, for all that a test will try."""
    exact: list[float] = []
    for parameter in parameters_of(training):
        factors = direction.factors(parameter)
        tensors = (
            (direction.dense(parameter),) if factors is None else dataclasses.astuple(factors)
        )
        exact += [float(t.double().sum()) for t in tensors]
        exact += [float(t.double().square().sum()) for t in tensors]
    return exact


def num_columns(training: Training, direction: Direction) -> list[int]:
    """Columns of each factored matrix."""
    found = [direction.factors(parameter) for parameter in parameters_of(training)]
    return [each.left.shape[1] for each in found if each is not None]


def errors_along_factors(folder: Path, case: ProbeCase) -> list[dict[str, Any]]:
    """Alignments with a direction of few columns, whatever it holds, equal float64's with it."""
    training = start_training(folder, case, checked=True)
    training.train_step()
    results: list[dict[str, Any]] = []
    for name, method in {
        "directional": Directional(direction=LowRank(rank=2)),
        "in_flight": InFlight(direction=LowRank(rank=2)),
    }.items():
        # The same seed and no past: the direction that the measurement will find.
        toward = low_rank(training, LowRank(rank=2)).direction(3, training.packed_specific(3))
        d, reference = as_vector(pieces(training, toward.direction)), training.reference()
        measurement = training.measurement(method)
        if name == "in_flight":
            found, domains = training.measured_in_flight(measurement, 3)
        else:
            found = measurement.measure(3)
            domains = [training.drawn_of_domain(3, i) for i in range(len(training.domains))]
        gradients = [reference.gradient(tokens) for tokens in domains]
        errors = [
            abs(dot - float(g @ d)) / float(g.norm() * d.norm())
            for dot, g in zip(found.dots, gradients, strict=True)
        ]
        results.append(
            {
                **dataclasses.asdict(case),
                "probe": name,
                "error": max(errors),
                "num_factored": len(num_columns(training, toward.direction)),
                "numbers": measured_numbers(found),
            }
        )
    training.engine.destroy()
    return results


@contextmanager
def another_processor() -> Generator[None]:
    """Have ranks but the first factor matrices as well, but not into the same factors."""
    if torch.distributed.get_rank() == 0:
        yield
        return
    qr, svd = torch.linalg.qr, factoring._svd
    as_returned: Any = torch.return_types

    def other_qr(matrix: Tensor) -> Any:
        q, r = qr(matrix)
        signs = torch.ones(q.shape[1]).index_fill_(0, torch.arange(0, q.shape[1], 2), -1.0)
        return as_returned.linalg_qr((q * signs, signs[:, None] * r))

    def other_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, values, right = svd(matrix)
        return -left, values, -right

    with (
        patch.object(torch.linalg, "qr", other_qr),
        patch.object(factoring, "qr", other_qr),
        patch.object(factoring, "_svd", other_svd),
    ):
        yield


def results_of_wide(folder: Path, kind: str) -> list[dict[str, Any]]:
    """What there is to know of a model all of whose matrices are factored."""
    few = start_training(
        folder, ProbeCase(kind, "fp32", "llama-wide"), budget=ONE_SEQUENCE, checked=True
    )
    few.train_step()
    with another_processor():
        complete = _complete(few)
    few.engine.destroy()
    many = start_training(folder, ProbeCase(kind, "fp32", "llama-wide"), checked=True)
    many.train_step()
    with another_processor():
        energy, memory = _energies(many), _memory(many)
    many.engine.destroy()
    return [
        {
            "kind": kind,
            "complete": complete,
            "energy": energy,
            "memory": memory,
            "numbers": [complete["numbers"], energy["numbers"], memory["bits"]],
        }
    ]


def _complete(training: Training) -> dict[str, Any]:
    """With as many columns as the gradient has ranks, nothing is left out."""
    found = training.measurement(Directional(direction=LowRank(rank=RANK))).measure(0)
    direction = (
        low_rank(training, LowRank(rank=RANK)).direction(0, training.packed_specific(0)).direction
    )
    reference = training.reference()
    v = reference.gradient(training.drawn_of_specific(0))
    errors: list[float] = []
    for index, dot in enumerate(found.dots):
        g = reference.gradient(training.drawn_of_domain(0, index))
        errors.append(abs(dot - float(g @ v)) / float(g.norm() * v.norm()))
    return {
        "error": max(errors),
        "energy": found.direction_energy,
        "columns": num_columns(training, direction),
        "matrices": sum(len(p.shape) == 2 for p in training.reference().parameters),
        "numbers": measured_numbers(found),
    }


def _energies(training: Training) -> dict[str, Any]:
    """What few columns hold, as estimated and in truth, all that are found or the fewest."""
    specific = training.packed_specific(0)
    reference = training.reference()
    v = reference.gradient(training.drawn_of_specific(0))
    kept = low_rank(training, LowRank(rank=RANK)).direction(0, specific)
    fewest = low_rank(training, LowRankEnergy(energy=SHARE, max_rank=RANK)).direction(0, specific)
    found = [factors for p in parameters_of(training) if (factors := fewest.direction.factors(p))]
    columns = torch.cat([factors.right.double().square().sum(dim=0) for factors in found])
    return {
        "squared_norm": float(v @ v),
        "standard_error": _standard_error(training, kept, reference, v),
        "kept": _energy(training, kept, v),
        "fewest": _energy(training, fewest, v),
        "least_column": float(columns.min()) / fewest.squared_norm,
        "numbers": [*bits(training, kept.direction), *bits(training, fewest.direction)],
    }


def _energy(training: Training, toward: UpdateDirection, v: Tensor) -> dict[str, float]:
    d = as_vector(pieces(training, toward.direction))
    return {
        "estimated": toward.energy,
        "estimated_squared_norm": toward.squared_norm,
        # A direction's part of v, by Pythagoras.
        "true": float((v @ d).square() / (d @ d) / (v @ v)),
        "columns": sum(num_columns(training, toward.direction)),
    }


def _standard_error(
    training: Training, toward: UpdateDirection, reference: Reference, v: Tensor
) -> float:
    """That of the estimate of what is left out, from the truly left-out part R of each matrix.

    Of one normal column z, ``Var |R z|^2 = 2 |R^T R|^2``; columns and matrices are independent.
    """
    parts = v.split([p.numel() for p in reference.parameters])
    variance = 0.0
    found = pieces(training, toward.direction)
    for parameter, part, piece in zip(parameters_of(training), parts, found, strict=True):
        if toward.direction.factors(parameter) is not None:
            residual = part.view_as(piece) - piece
            variance += 2.0 / TEST_COLUMNS * float((residual.T @ residual).square().sum())
    return variance**0.5


def _memory(training: Training) -> dict[str, Any]:
    """Go through five updates with a direction that does for three, and go on from the third."""
    rank = LowRank(rank=RANK)
    source = low_rank(training, rank, interval=3)
    ages: list[int] = []
    seen: list[list[float]] = []
    saved: dict[str, Any] = {}
    for update in range(5):
        toward = source.direction(update, training.packed_specific(update))
        ages.append(toward.age)
        seen.append(bits(training, toward.direction))
        if update == 1:
            saved = source.state_dict()
    resumed = low_rank(training, rank, interval=3)
    resumed.load_state_dict(saved)
    again = [resumed.direction(u, training.packed_specific(u)).direction for u in range(2, 5)]
    fresh = (
        low_rank(training, rank, interval=3).direction(3, training.packed_specific(3)).direction
    )
    return {
        "ages": ages,
        "bits": seen,
        "resumed": [bits(training, direction) for direction in again],
        "without_past": bits(training, fresh),
    }
