"""Compares every probe with float64 gradients of one process, on the ranks it runs on."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megadga.alignment.drawing import ProbeDraws
from megadga.alignment.methods import (
    Method,
    ProbeBudget,
    Probing,
)
from megadga.alignment.protocols import Measurement, TrainedBatch
from megadga.arrays import IntArray
from megadga.build.ranks import leave
from megadga.mixing.scheduler import AlignmentNeeds, Alignments
from megadga.plugin import Batch, DgaPlugin, Sampling
from megadga.shards.domain import Domain
from megadga.shards.sequences import PADDING, SequenceSet
from megadga.zero.loss import Loss
from megadga.zero.measuring import make_measurement
from tests.support.engines import build_engine, full_parameters, settings
from tests.support.probed_models import PROBED_MODELS
from tests.support.probes import METHODS
from tests.support.schedulers import FrozenProbing
from tests.support.shards import SEQUENCE_LENGTH, open_sets, open_unequal

SEED = 5
BUDGET = ProbeBudget(sequences_per_domain=5, specific_sequences=7)


@dataclass(frozen=True)
class Reference:
    """Gradients of one float64 module, each sequence read without its padding."""

    module: nn.Module
    loss: Loss

    def gradient(self, tokens: IntArray) -> Tensor:
        """Return the gradient of the mean over all targets, of every parameter in one vector."""
        sequences = [s[s != PADDING][None] for s in torch.from_numpy(tokens)]
        targets = torch.tensor([s.shape[1] - 1 for s in sequences])
        losses = torch.stack([self.loss(self.module, sequence) for sequence in sequences])
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        mean = (losses * targets).sum() / targets.sum()
        gradients = torch.autograd.grad(
            mean, parameters, allow_unused=True, materialize_grads=True
        )
        return torch.cat([g.flatten() for g in gradients])


def reference_of(engine: Any, model: str) -> Reference:
    """Copy the engine's present parameters into a module of one process. Collective."""
    probed = PROBED_MODELS[model]
    module = probed.build().double()
    state = {name: tensor.double() for name, tensor in full_parameters(engine).items()}
    module.load_state_dict(state, strict=False)
    return Reference(module, probed.loss)


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


@dataclass(frozen=True)
class Case:
    """One engine in training, and what is measured on it."""

    engine: Any
    model: str
    domains: list[Domain]
    specific: SequenceSet

    def draws(self) -> ProbeDraws:
        return ProbeDraws(self.domains, self.specific, budget=BUDGET, seed=SEED)

    def measurement(self, method: Method) -> Measurement:
        return make_measurement(
            self.engine,
            self.domains,
            self.specific,
            probing=Probing(method, BUDGET),
            needs=AlignmentNeeds(),
            loss=PROBED_MODELS[self.model].loss,
            seed=SEED,
        )

    def drawn_of_specific(self, update: int) -> IntArray:
        drawn = self.draws().specific(update)
        return drawn.read(np.arange(len(drawn)))

    def drawn_of_domain(self, update: int, index: int) -> IntArray:
        drawn = self.draws().domain(update, index)
        return drawn.read(np.arange(len(drawn)))

    def train(self, tokens: Tensor) -> None:
        """Train on one micro-batch."""
        loss = PROBED_MODELS[self.model].loss(self.engine, tokens)
        self.engine.backward(loss)
        self.engine.step()


def between_steps(case: Case, method: Method, update: int) -> dict[str, Any]:
    """Measure now, whatever the engine is in the middle of."""
    alignments = case.measurement(method).measure(update)
    drawn = [case.drawn_of_domain(update, index) for index in range(len(case.domains))]
    reference = reference_of(case.engine, case.model)
    error = largest_error(alignments, reference, case.drawn_of_specific(update), drawn)
    return {"error": error, "dots": alignments.dots.tolist()}


def in_flight(case: Case, batch: Batch, method: Method, update: int) -> dict[str, Any]:
    """Measure while a batch is trained that may lack a domain."""
    reference = reference_of(case.engine, case.model)
    measurement = case.measurement(method)
    owners = batch.indices.global_domains
    measurement.prepare(update, TrainedBatch(owners, batch.indices.rows, SEQUENCE_LENGTH))
    for tokens in batch.tokens:
        case.train(tokens)
    alignments = measurement.measure(update)
    sequences = global_tokens(batch)
    trained = [
        sequences[owners == index]
        if (owners == index).any()
        else case.drawn_of_domain(update, index)
        for index in range(len(case.domains))
    ]
    error = largest_error(alignments, reference, case.drawn_of_specific(update), trained)
    return {"error": error, "dots": alignments.dots.tolist()}


def global_tokens(batch: Batch) -> IntArray:
    """Return every rank's sequences in the order of the global batch. Collective."""
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, (batch.indices.rows, batch.tokens.numpy()))
    rows = np.concatenate([each.ravel() for each, _ in everyone])
    tokens = np.concatenate([each.reshape(-1, each.shape[-1]) for _, each in everyone])
    return tokens[np.argsort(rows)]


def train_and_measure(
    folder: Path, kind: str, precision: str, model: str, packing: str
) -> list[dict[str, Any]]:
    """Train two steps and a half, measure inside the open accumulation window, and in flight."""
    domains, stream = open_sets(folder)
    specific = stream if packing == "stream" else open_unequal(folder)
    probed = PROBED_MODELS[model]
    engine = build_engine(probed.build, settings(kind, precision, **probed.settings))
    probed.prepare(engine)
    case = Case(engine, model, domains, specific)
    source = DgaPlugin(
        engine,
        domains,
        specific,
        FrozenProbing(len(domains)),
        sampling=Sampling(seed=SEED),
        interval=100,
        loss=probed.loss,
    )
    for _ in range(2):
        for tokens in source.next_batch().tokens:
            case.train(tokens)
    batch = source.next_batch()
    results: list[dict[str, Any]] = []
    for place, tokens in enumerate(batch.tokens):
        case.train(tokens)
        if place == 0:  # the window is open now
            results += [
                {"probe": name, **between_steps(case, METHODS[name], update=3)}
                for name in ("sharded", "directional")
            ]
    flown = in_flight(case, source.next_batch(), METHODS["in_flight"], update=4)
    results.append({"probe": "in_flight", **flown})
    engine.destroy()
    about = {"kind": kind, "precision": precision, "model": model, "packing": packing}
    return [{**about, **result} for result in results]


def main(output: str, folder: str, *cases: str) -> None:
    """Each case: kind, precision, model and packing, joined by colons."""
    results = [
        result for case in cases for result in train_and_measure(Path(folder), *case.split(":"))
    ]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, results)
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps({"results": results, "by_rank": everyone}))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
