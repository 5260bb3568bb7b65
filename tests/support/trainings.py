"""Engines in training for workers that measure on them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import IntArray
from megadga.data.domain import Domain, SequenceSet
from megadga.mixers.base import AlignmentNeeds, Alignments
from megadga.mixers.probing import DIRECTIONAL, Probe, Sharded
from megadga.mixers.static import Static
from megadga.plugin import Batch, MixturePlugin, Sampling
from megadga.probes.measuring import make_measurement
from megadga.probes.protocols import Measurement
from megadga.probes.sequences import PackedSequences, ProbeSequenceSampler, TrainedBatch
from tests.support.checks import checked_already
from tests.support.engines import build_engine, settings
from tests.support.probe_cases import ProbeCase
from tests.support.probed_models import PROBED_MODELS, ProbedModel
from tests.support.probes import sized
from tests.support.references import Reference, reference_of
from tests.support.shards import SEQUENCE_LENGTH, open_dialogues, open_sets, open_unequal

SEED = 5
BUDGET = (3, 5)


@dataclass(frozen=True)
class Training:
    """An engine, what it trains on and what is measured on it.

    Attributes:
        engine: DeepSpeed's.
        probed: The model in it.
        domains: Of which the last is never trained on.
        specific: The specific set.
        batches: Hands them out, and measures nothing.
        budget: Sequences per domain, and of the specific set, of a measurement.
    """

    engine: Any
    probed: ProbedModel
    domains: list[Domain]
    specific: SequenceSet
    batches: MixturePlugin
    budget: tuple[int, int]
    _checked: set[bool] = field(default_factory=set[bool])
    _references: dict[int, Reference] = field(default_factory=dict[int, Reference])

    def measurement(
        self, method: Probe, needs: AlignmentNeeds = AlignmentNeeds(), *, raw: bool = False
    ) -> Measurement:
        """Return what measures; ``raw``: without moments too.

        What is checked is the same for all probes that take derivatives, and less for others: it
        is checked once on an engine.
        """
        derivatives = not isinstance(method, Sharded)
        with checked_already(derivatives in self._checked):
            measurement = make_measurement(
                self.engine,
                self.domains,
                self.specific,
                probe=sized(method, *self.budget),
                needs=replace(needs, without_moments="raw") if raw else needs,
                loss=self.probed.loss,
                seed=SEED,
            )
        self._checked.add(derivatives)
        return measurement

    def reference(self) -> Reference:
        """Copy the present parameters, once after each step. Collective."""
        steps = self.engine.global_steps
        if steps not in self._references:
            self._references[steps] = reference_of(self.engine, self.probed)
        return self._references[steps]

    def drawn_of_specific(self, update: int) -> IntArray:
        """The tokens that an update's direction is measured on."""
        drawn = self._draws().specific(update)
        return drawn.read(np.arange(len(drawn)))

    def drawn_of_domain(self, update: int, index: int) -> IntArray:
        """The tokens that an update's gradient of a domain is measured on."""
        drawn = self._draws().measured(update, index)
        return drawn.read(np.arange(len(drawn)))

    def packed_specific(self, update: int) -> PackedSequences:
        """What an update's direction is measured on, as ``DirectionSource`` takes it."""
        return PackedSequences([self._draws().specific(update)])

    def train_micro_batch(self, tokens: Tensor) -> None:
        loss = self.probed.loss(self.engine, tokens)
        self.engine.backward(loss)
        self.engine.step()

    def train_step(self) -> None:
        for tokens in self.batches.next_batch().tokens:
            self.train_micro_batch(tokens)

    def measured_in_flight(
        self, measurement: Measurement, update: int
    ) -> tuple[Alignments, list[IntArray]]:
        """Train a step; return the alignments and the tokens of each domain that they are of.

        Collective.
        """
        batch = self.batches.next_batch()
        owners = batch.indices.global_domains
        measurement.prepare(update, TrainedBatch(owners, batch.indices.rows, SEQUENCE_LENGTH))
        for tokens in batch.tokens:
            self.train_micro_batch(tokens)
        alignments = measurement.measure(update)
        sequences = global_tokens(batch)
        measured = [
            sequences[owners == index]
            if (owners == index).any()
            else self.drawn_of_domain(update, index)
            for index in range(len(self.domains))
        ]
        return alignments, measured

    def _draws(self) -> ProbeSequenceSampler:
        probe = sized(DIRECTIONAL, *self.budget)
        return ProbeSequenceSampler(self.domains, self.specific, probe=probe, seed=SEED)


def start_training(
    folder: Path,
    case: ProbeCase,
    *,
    budget: tuple[int, int] = BUDGET,
    checked: bool = False,
    **more: Any,
) -> Training:
    """Build a case's engine, with ``more`` of DeepSpeed's settings.

    Args:
        folder: As ``write_sets`` writes it.
        case: The engine.
        budget: Sequences per domain, and of the specific set, of a measurement.
        checked: Whether others check what measures on such an engine.
        more: Settings.
    """
    domains, stream = open_sets(folder)
    opened = {"examples": open_unequal, "chat": open_dialogues}.get(case.packing)
    specific = stream if opened is None else opened(folder)
    probed = PROBED_MODELS[case.model]
    config = settings(case.kind, case.precision, **probed.settings, **more)
    engine = build_engine(probed.build, config)
    probed.prepare(engine)
    weights = np.full(len(domains), 1.0 / (len(domains) - 1))
    weights[-1] = 0.0  # in flight it is measured apart
    sampling = Sampling(seed=SEED)
    batches = MixturePlugin(engine, domains, None, Static(weights), sampling=sampling)
    known = {True, False} if checked else set[bool]()
    return Training(engine, probed, domains, specific, batches, budget, known)


def global_tokens(batch: Batch) -> IntArray:
    """Return every rank's sequences in the order of the global batch. Collective."""
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, (batch.indices.rows, batch.tokens.numpy()))
    rows = np.concatenate([each.ravel() for each, _ in everyone])
    tokens = np.concatenate([each.reshape(-1, each.shape[-1]) for _, each in everyone])
    return tokens[np.argsort(rows)]
