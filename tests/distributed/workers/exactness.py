"""Compares sharded alignments with float64 gradients of one process, on the ranks it runs on."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from megadga.alignment.methods import ProbeBudget
from megadga.alignment.protocols import DrawnSequences
from megadga.arrays import IntArray
from megadga.build.ranks import leave
from megadga.mixing.scheduler import Alignments
from megadga.plugin import DgaPlugin, Sampling
from megadga.sampling.probes import ProbeSampler
from megadga.shards.domain import Domain
from megadga.shards.sequences import PADDING, SequenceSet
from tests.support.engines import build_engine, full_parameters, settings
from tests.support.models import SmallDecoder
from tests.support.schedulers import FrozenProbing
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY, open_sets, open_unequal

SEED = 5
BUDGET = ProbeBudget(sequences_per_domain=5, specific_sequences=7)


def build_module() -> nn.Module:
    return SmallDecoder(VOCABULARY, SEQUENCE_LENGTH)


def reference_gradient(module: nn.Module, drawn: DrawnSequences) -> torch.Tensor:
    """Return the gradient of the mean over all targets, each sequence read without its padding."""
    tokens = torch.from_numpy(drawn.read(np.arange(len(drawn))))
    losses = [module(sequence[sequence != PADDING][None]).flatten() for sequence in tokens]
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        torch.cat(losses).mean(), parameters, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


def largest_error(
    found: Alignments, module: nn.Module, domains: list[Domain], specific: SequenceSet, update: int
) -> float:
    """Largest deviation of a measured number from float64, relative to |g_i||v| (or |g_i|^2)."""
    sets: list[SequenceSet] = [*domains, specific]
    sampler = ProbeSampler(np.array([s.num_sequences for s in sets], dtype=np.int64), seed=SEED)

    def draw(index: int, count: int) -> DrawnSequences:
        return DrawnSequences(sets[index], sampler.draw(update, index, count).sequences)

    v = reference_gradient(module, draw(len(domains), BUDGET.specific_sequences))
    errors = [abs(found.specific_squared_norm / float(v @ v) - 1.0)]
    for i in range(len(domains)):
        g = reference_gradient(module, draw(i, BUDGET.sequences_per_domain))
        errors.append(abs(found.dots[i] - float(g @ v)) / float(g.norm() * v.norm()))
        errors.append(abs(found.squared_norms[i] / float(g @ g) - 1.0))
    return max(errors)


def train_and_measure(folder: Path, kind: str, precision: str, packing: str) -> dict[str, Any]:
    """Train two steps and a half, measure inside the open accumulation window, compare."""
    domains, stream = open_sets(folder)
    specific = stream if packing == "stream" else open_unequal(folder)
    engine = build_engine(build_module, settings(kind, precision))
    plugin = DgaPlugin(
        engine,
        domains,
        specific,
        FrozenProbing(len(domains)),
        sampling=Sampling(seed=SEED),
        interval=2,
        budget=BUDGET,
    )
    drawn: list[IntArray] = []
    for step in range(1, 3):
        batch = plugin.next_batch()
        drawn.append(np.stack([batch.indices.global_domains]))
        for tokens in batch.tokens:
            engine.backward(engine(tokens).mean())
            engine.step()
        plugin.after_step(step)
    tokens = plugin.next_batch().tokens[0]
    engine.backward(engine(tokens).mean())  # the window is open now
    alignments = plugin._aligner.measure(3)  # pyright: ignore[reportOptionalMemberAccess]

    module = build_module().double()
    module.load_state_dict({k: t.double() for k, t in full_parameters(engine).items()})
    error = largest_error(alignments, module, domains, specific, update=3)
    engine.destroy()
    return {
        "kind": kind,
        "precision": precision,
        "packing": packing,
        "error": error,
        "dots": alignments.dots.tolist(),
    }


def main(output: str, folder: str, kinds: str) -> None:
    results = [
        train_and_measure(Path(folder), kind, precision, packing)
        for kind in kinds.split(",")
        for precision, packing in (("fp32", "stream"), ("bf16", "stream"), ("fp32", "examples"))
    ]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, results)
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps({"results": results, "by_rank": everyone}))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
