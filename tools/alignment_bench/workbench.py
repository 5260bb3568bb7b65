"""An engine that trains on made-up domains, and what can be measured on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import deepspeed
import numpy as np
import torch

from megadga.data.domain import Domain
from megadga.data.folder import DomainSource, open_domain
from megadga.data.rows import rank_rows
from megadga.mixers.base import AlignmentNeeds
from megadga.mixers.probing import Directional, InFlight, LowRank, Probe, Sharded
from megadga.model.llama import Llama
from megadga.probes.loss import mean_loss
from megadga.probes.measuring import make_measurement
from megadga.probes.passes import ProbePasses
from megadga.probes.protocols import Measurement
from megadga.probes.sequences import (
    PackedSequences,
    ProbeSequences,
    ProbeSequenceSampler,
    TrainedBatch,
)

from .case import Case
from .tokens import cut

_REDUCE_BUCKET_ON_CPU = 1 << 22
"""Elements; DeepSpeed's own 500 million would be all that memory consists of."""


@final
class Workbench:
    """A DeepSpeed engine in training. Collective, like everything that it does.

    Args:
        case: Describes it.
        folder: Where ``write_tokens`` wrote.
        engine: From ``make_engine``.

    Attributes:
        case: As given.
        engine: As given.
        passes: On that engine.
        text: What domains are cut from.
        domains: As many as an optimizer step has micro-batches, at least two.
        specific_set: What the domains are aligned with.
        batch: This rank's tokens of every step, shape ``(accumulation, micro batch, S + 1)``.
        budget: Sequences per domain, and of the specific set: in all as many as a step trains on.
    """

    def __init__(self, case: Case, folder: Path, engine: Any) -> None:
        self.case = case
        self.engine = engine
        self.passes = ProbePasses(self.engine, loss=mean_loss)
        source = DomainSource("all", folder)
        tokens = open_domain(source, split="train", sequence_length=case.sequence_length)
        self.text, self.specific_set = cut(tokens, 2)
        self.domains = cut(self.text, max(2, case.accumulation))
        self.budget = (case.global_batch // len(self.domains), case.global_batch)
        self.batch = self._training_batch()

    @property
    def num_parameter_bytes(self) -> int:
        """P: what the parameters take on all ranks together."""
        sizes = [getattr(p, "ds_numel", p.numel()) * p.itemsize for p in self.passes.parameters]
        return sum(sizes)

    @property
    def trained(self) -> TrainedBatch:
        """What a step trains on: as many sequences of each domain."""
        rows = rank_rows(
            self.case.global_batch,
            rank=self.passes.collective.rank,
            world_size=self.case.ranks,
            micro_batch_size=self.case.micro_batch,
        )
        owners = np.arange(self.case.global_batch) % len(self.domains)
        return TrainedBatch(owners, rows, self.case.sequence_length)

    def train(self) -> None:
        """Take one optimizer step: forward, backward and step for each micro-batch."""
        for tokens in self.batch:
            self.engine.backward(mean_loss(self.engine, tokens))
            self.engine.step()

    def draws(self) -> ProbeSequenceSampler:
        """Return an update's sequences."""
        return ProbeSequenceSampler(
            self.domains, self.specific_set, probe=_probe("directional", 1, self.budget), seed=0
        )

    def specific(self, update: int = 0) -> PackedSequences:
        """Return an update's specific sequences."""
        return PackedSequences([self.draws().specific(update)])

    def drawn(self) -> Sequence[ProbeSequences]:
        """Return an update's sequences of each domain."""
        draws = self.draws()
        return [draws.measured(0, index) for index in range(len(self.domains))]

    def measurement(self, probe: str) -> Measurement:
        """Return what measures whole updates, by the name that rows have for it."""
        return self._measurement(probe, self.domains, self.budget)

    def measurement_of(self, probe: str, num_domains: int, total_sequences: int) -> Measurement:
        """Return the same for a number of domains that share a number of sequences."""
        budget = (total_sequences // num_domains, self.case.global_batch)
        return self._measurement(probe, cut(self.text, num_domains), budget)

    def draws_of(self, num_domains: int, total_sequences: int) -> ProbeSequenceSampler:
        """Return the sequences that such a measurement reads."""
        budget = (total_sequences // num_domains, self.case.global_batch)
        probe = _probe("directional", self.case.rank, budget)
        domains = cut(self.text, num_domains)
        return ProbeSequenceSampler(domains, self.specific_set, probe=probe, seed=0)

    def _measurement(
        self, probe: str, domains: Sequence[Domain], budget: tuple[int, int]
    ) -> Measurement:
        return make_measurement(
            self.engine,
            domains,
            self.specific_set,
            probe=_probe(probe, self.case.rank, budget),
            needs=AlignmentNeeds(),
            loss=mean_loss,
            seed=0,
        )

    def _training_batch(self) -> torch.Tensor:
        """Return this rank's tokens, shape ``(accumulation, micro batch, S + 1)``."""
        tokens = self.text.windows(self.trained.rows.ravel())
        own = torch.from_numpy(tokens).view(*self.trained.rows.shape, -1)
        return own.to(self.engine.device)


def _probe(name: str, rank: int, budget: tuple[int, int]) -> Probe:
    sizes: dict[str, Any] = dict(
        zip(("sequences_per_domain", "specific_sequences"), budget, strict=True)
    )
    probes: dict[str, Probe] = {
        "sharded": Sharded(**sizes),
        "directional": Directional(**sizes),
        "directional low rank": Directional(direction=LowRank(rank=rank), **sizes),
        "in_flight": InFlight(**sizes),
        "in_flight low rank": InFlight(direction=LowRank(rank=rank), **sizes),
    }
    return probes[name]


def training_settings(case: Case) -> dict[str, Any]:
    """Return DeepSpeed's settings for a case, of whatever model."""
    zero: dict[str, Any] = {"stage": case.stage}
    if not torch.accelerator.is_available():
        zero["reduce_bucket_size"] = _REDUCE_BUCKET_ON_CPU
    adamw = {"lr": 1e-4, "torch_adam": True, "fused": True}
    return {
        "train_micro_batch_size_per_gpu": case.micro_batch,
        "gradient_accumulation_steps": case.accumulation,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": adamw},
        "zero_optimization": zero,
        "bf16": {"enabled": case.precision == "bf16"},
    }


def make_engine(case: Case, zero: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Return an engine around a Llama of the case's sizes. Collective.

    Args:
        case: Describes it.
        zero: More of ZeRO's settings.
    """
    settings = training_settings(case)
    settings["zero_optimization"] |= zero
    with deepspeed.zero.Init(config_dict_or_path=settings, enabled=case.stage == 3):
        model = Llama(
            case.shape,
            vocabulary_size=case.vocabulary_size,
            sequence_length=case.sequence_length,
            seed=0,
        )
    initialize: Any = deepspeed.initialize  # pyright: ignore[reportUnknownVariableType]
    # its annotations refuse what its docstring asks for
    engine, *_ = initialize(
        model=model, model_parameters=list(model.parameters()), config=settings
    )
    model.rotary.to(engine.device)  # zero.Init moves parameters only, not buffers
    return engine
