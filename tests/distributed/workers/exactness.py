"""Compares every probe with float64 gradients of one process, on the ranks it runs on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megadga.arrays import IntArray
from megadga.mixers.base import Alignments
from tests.support.probe_cases import ProbeCase
from tests.support.probes import METHODS
from tests.support.references import Reference
from tests.support.trainings import Training, start_training


def measured_numbers(found: Alignments) -> list[list[float]]:
    """All that a probe measured, which must be equal bits on every rank."""
    arrays = (found.dots, found.squared_norms, found.standard_errors)
    numbers = [array.tolist() for array in arrays if array is not None]
    return [*numbers, [found.specific_squared_norm, found.direction_energy]]


def largest_error(
    found: Alignments, reference: Reference, specific: IntArray, domains: Sequence[IntArray]
) -> float:
    """Largest deviation of a measured number from float64, relative to |g_i||v| (or |g_i|^2)."""
    v = reference.gradient(specific)
    errors = [abs(found.specific_squared_norm / float(v @ v) - 1.0)]
    for i, tokens in enumerate(domains):
        g = reference.gradient(tokens)
        errors.append(abs(found.dots[i] - float(g @ v)) / float(g.norm() * v.norm()))
        if found.squared_norms is not None:
            errors.append(abs(found.squared_norms[i] / float(g @ g) - 1.0))
    return max(errors)


def largest_error_of_standard_errors(
    found: Alignments, reference: Reference, specific: IntArray, domains: Sequence[IntArray]
) -> float:
    """The same for standard errors, relative to the largest |g_s||v| of a domain's sequences.

    A root of summed squares moves no further than what is squared, and that is each sequence's
    ``<g_s, v>`` but for factors below 1.
    """
    assert found.standard_errors is not None
    v = reference.gradient(specific)
    errors: list[float] = []
    for standard_error, tokens in zip(found.standard_errors, domains, strict=True):
        gradients = reference.gradients_of_sequences(tokens)
        num_targets = torch.from_numpy((tokens[:, 1:] >= 0).sum(axis=1)).double()
        expected = standard_error_of_ratio(gradients @ v, num_targets)
        scale = gradients.norm(dim=1).max() * v.norm()
        errors.append(abs(float(standard_error) - expected) / float(scale))
    return max(errors)


def standard_error_of_ratio(slopes: Tensor, num_targets: Tensor) -> float:
    """That of a mean over all targets, from each sequence's mean and how many it has."""
    shares = num_targets / num_targets.sum()
    mean = shares @ slopes
    number = len(slopes)
    return float((number / (number - 1) * (shares * (slopes - mean)).square().sum()).sqrt())


def between_steps(training: Training, name: str, update: int) -> dict[str, Any]:
    """Measure now, whatever the engine is in the middle of."""
    alignments = training.measurement(METHODS[name]).measure(update)
    drawn = [training.drawn_of_domain(update, i) for i in range(len(training.domains))]
    reference, specific = training.reference(), training.drawn_of_specific(update)
    errors = {"alignments": largest_error(alignments, reference, specific, drawn)}
    if alignments.standard_errors is not None:
        errors["standard errors"] = largest_error_of_standard_errors(
            alignments, reference, specific, drawn
        )
    return {"probe": name, "errors": errors, "numbers": measured_numbers(alignments)}


def in_flight(training: Training, update: int) -> dict[str, Any]:
    """Measure while a batch is trained that lacks a domain."""
    reference, specific = training.reference(), training.drawn_of_specific(update)
    measurement = training.measurement(METHODS["in_flight"])
    alignments, measured = training.measured_in_flight(measurement, update)
    errors = {"alignments": largest_error(alignments, reference, specific, measured)}
    return {"probe": "in_flight", "errors": errors, "numbers": measured_numbers(alignments)}


def results_of(folder: Path, case: ProbeCase) -> list[dict[str, Any]]:
    """Train two steps and a half, measure inside the open accumulation window, and in flight."""
    training = start_training(folder, case)
    for _ in range(2):
        training.train_step()
    results: list[dict[str, Any]] = []
    for place, tokens in enumerate(training.batches.next_batch().tokens):
        training.train_micro_batch(tokens)
        if place == 0:  # the window is open now
            results += [between_steps(training, "sharded", update=3)]
            results += [between_steps(training, "directional", update=3)]
    results.append(in_flight(training, update=4))
    training.engine.destroy()
    return [{**dataclasses.asdict(case), **result} for result in results]
