"""Trains on texts and dialogues in windows, and measures both, beside float64 on all ranks."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from megadga.arrays import IntArray
from megadga.data.domain import Domain, SequenceSet
from megadga.data.folder import open_domains
from megadga.mixers.base import AlignmentNeeds, Alignments
from megadga.mixers.dga import Dga
from megadga.mixers.probing import InFlight
from megadga.mixers.static import Static, uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.measuring import make_measurement
from megadga.probes.sequences import ProbeSequences, ProbeSequenceSampler
from megadga.train.ranks import StepAllReduce, destroy_process_group
from megadga.train.trainer import Trainer
from tests.distributed.workers.exactness import largest_error, measured_numbers
from tests.support.engines import build_engine, init_ranks, settings
from tests.support.probed_models import PROBED_MODELS
from tests.support.probes import METHODS, sized
from tests.support.references import Reference, reference_of
from tests.support.shards import SEQUENCE_LENGTH, open_dialogues
from tests.support.trainings import global_tokens

SEED, UPDATE = 5, 3
BUDGET = (4, 5)
PROBED = PROBED_MODELS["llama"]
CHAT = ("talk", "terse")


def open_mixed(folder: Path) -> tuple[Domain, ...]:
    return open_domains(folder, split="train", sequence_length=SEQUENCE_LENGTH, chat=CHAT)


def new_engine(kind: str, micro_batch_size: int) -> Any:
    layout = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": 8 // dist.get_world_size() // micro_batch_size,
    }
    engine = build_engine(PROBED.build, settings(kind, "fp32", **layout))
    PROBED.prepare(engine)
    return engine


def trained(engine: Any, domains: tuple[Domain, ...]) -> dict[str, Any]:
    """A training step, and how far what it told is from float64. Collective."""
    weights = uniform_weights(len(domains))
    plugin = MixturePlugin(engine, domains, None, Static(weights), sampling=Sampling(SEED))
    collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
    trainer = Trainer(
        engine, plugin.names, step_sum=StepAllReduce(collective), clock=time.perf_counter
    )
    batch = plugin.next_batch()
    tokens, owners = global_tokens(batch), batch.indices.global_domains
    reference = reference_of(engine, PROBED)
    record = trainer.step(batch)["train"]
    plugin.close()
    return {
        "errors": step_errors(record, reference, tokens, owners, plugin.names),
        "targets": (tokens[:, 1:] >= 0).sum(axis=1).tolist(),
        "counted": record["targets_by_domain"],
        "owners": owners.tolist(),
    }


def step_errors(
    record: dict[str, Any],
    reference: Reference,
    tokens: IntArray,
    owners: IntArray,
    names: tuple[str, ...],
) -> dict[str, float]:
    """Relative errors of the loss, its gradient's norm, and the domains' losses."""
    expected = {
        "loss": reference.mean_loss(tokens).item(),
        "grad_norm": float(reference.gradient(tokens).norm()),
    }
    found = {name: record[name] for name in expected}
    for index in np.unique(owners).tolist():
        expected[names[index]] = reference.mean_loss(tokens[owners == index]).item()
        found[names[index]] = record["loss_by_domain"][names[index]]
    return {name: abs(found[name] / value - 1.0) for name, value in expected.items()}


def tokens_of(drawn: ProbeSequences) -> IntArray:
    return drawn.read(np.arange(len(drawn)))


def measured(engine: Any, domains: tuple[Domain, ...], specific: SequenceSet) -> dict[str, Any]:
    """Alignments of texts and dialogues by both probes between steps. Collective."""
    reference, report = reference_of(engine, PROBED), {}
    for name in ("sharded", "directional"):
        probe = sized(METHODS[name], *BUDGET)
        found: Alignments = make_measurement(
            engine,
            domains,
            specific,
            probe=probe,
            needs=AlignmentNeeds(norms=True),
            loss=PROBED.loss,
            seed=SEED,
        ).measure(UPDATE)
        draws = ProbeSequenceSampler(domains, specific, probe=probe, seed=SEED)
        drawn = [tokens_of(draws.measured(UPDATE, index)) for index in range(len(domains))]
        by_rank: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(by_rank, measured_numbers(found))
        report[name] = {
            "error": largest_error(found, reference, tokens_of(draws.specific(UPDATE)), drawn),
            "equal": all(each == by_rank[0] for each in by_rank),
            "fewest targets": min(int((each[:, 1:] >= 0).sum()) for each in drawn),
        }
    return report


def refused_in_flight(engine: Any, domains: tuple[Domain, ...], specific: SequenceSet) -> str:
    rule = Dga(uniform_weights(len(domains)), 1.0)
    try:
        MixturePlugin(engine, domains, specific, rule, sampling=Sampling(SEED), probe=InFlight())
    except ValueError as error:
        return str(error)
    return ""


def main(output: str, folder: str, kind: str) -> None:
    init_ranks()
    root = Path(folder)
    domains, specific = open_mixed(root / "mixed"), open_dialogues(root)
    report: dict[str, Any] = {
        "left out": {each.name: each.num_windows - each.num_sequences for each in domains}
    }
    steps: dict[str, Any] = {}
    for micro_batch_size in (1, 4):
        engine = new_engine(kind, micro_batch_size)
        steps[str(micro_batch_size)] = trained(engine, domains)
        if micro_batch_size == 4:
            report["measured"] = measured(engine, domains, specific)
            report["in flight"] = refused_in_flight(engine, domains, specific)
        engine.destroy()
    report["steps"] = steps
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
