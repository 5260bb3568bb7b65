"""Drives the plugin as a foreign loop would and notes what it hands out and remembers."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from megadga.data.reader import read_windows
from megadga.data.sampler import Selection
from megadga.errors import ExhaustedError, ResumeError
from megadga.mixers.dga import Dga
from megadga.mixers.odm import Odm
from megadga.mixers.probing import Directional, Probe
from megadga.mixers.static import Static, uniform_weights
from megadga.plugin import Batch, MixturePlugin, Sampling
from megadga.train.ranks import destroy_process_group
from tests.support.checks import checked_already
from tests.support.engines import build_engine, settings
from tests.support.models import SmallDecoder
from tests.support.probes import METHODS, sized
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY, open_sets

GLOBAL_BATCH_SIZE = 8
REMEMBERING = ("directional-low-rank", "in_flight-low-rank")


def build_module() -> nn.Module:
    return SmallDecoder(VOCABULARY, SEQUENCE_LENGTH)


def new_engine(**more: Any) -> Any:
    """Build an engine of one global batch size on any number of ranks."""
    config = settings("2", "fp32", train_batch_size=GLOBAL_BATCH_SIZE, **more)
    config["train_micro_batch_size_per_gpu"] = 1
    del config["gradient_accumulation_steps"]  # follows from the other two on any world size
    return build_engine(build_module, config)


def new_plugin(engine: Any, folder: Path, **more: Any) -> MixturePlugin:
    domains, specific = open_sets(folder)
    options: dict[str, Any] = {"sampling": Sampling(seed=5), "interval": 4} | more
    scheduler = options.pop("scheduler", Dga(uniform_weights(len(domains)), 0.5, ema=0.5))
    domains = options.pop("domains", domains)
    options.setdefault("probe", sized(Directional(), 4, 4))
    return MixturePlugin(engine, domains, specific, scheduler, **options)


def drawn(batch: Batch) -> list[list[int]]:
    """The global batch as (row, domain, sequence), gathered from all ranks. Collective."""
    own = np.stack([batch.indices.rows, batch.indices.domains, batch.indices.sequences], axis=-1)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own.reshape(-1, 3).tolist())
    return sorted(row for rows in everyone for row in rows)


def train(engine: Any, plugin: MixturePlugin, until: int) -> tuple[list[Any], list[Any]]:
    sequences, records = [], []
    while plugin.step < until:
        batch = plugin.next_batch()
        sequences.append(drawn(batch))
        for tokens in batch.tokens:
            engine.backward(engine(tokens).mean())
            engine.step()
        records.append(plugin.after_step(batch.step))
    return sequences, records


def uninterrupted_and_resumed(folder: Path) -> dict[str, Any]:
    """Train 12 steps; save after 6 of them and continue in a second plugin on the same engine."""
    engine = new_engine()
    plugin = new_plugin(engine, folder)
    sequences, records = train(engine, plugin, until=6)
    saved = io.BytesIO()
    torch.save(plugin.state_dict(), saved)
    reloaded = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    resumed = new_plugin(engine, folder)
    resumed.load_state_dict(reloaded)
    same_plans = [
        [plugin.next_indices().sequences.tolist(), resumed.next_indices().sequences.tolist()]
        for _ in range(2)
    ]
    weights: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(weights, plugin.weights.tolist())
    return {
        "sequences": sequences,
        "records": records,
        "same_plans": same_plans,
        "weights_by_rank": weights,
        "resumed_weights": resumed.weights.tolist(),
    }


def tokens_are_those_of_the_indices(folder: Path) -> bool:
    engine = new_engine()
    domains, _ = open_sets(folder)
    with_tokens, without = new_plugin(engine, folder), new_plugin(engine, folder)
    batch, indices = with_tokens.next_batch(), without.next_indices()
    flat = Selection(indices.domains.ravel(), indices.sequences.ravel())
    expected = read_windows(domains, flat)
    return np.array_equal(batch.tokens.flatten(0, 1).numpy(), expected)


def poisoned(folder: Path) -> dict[str, Any]:
    """Measure with a model that has a NaN in it."""
    engine = new_engine()
    plugin = new_plugin(engine, folder)
    for _ in range(4):
        plugin.next_batch()
    with torch.no_grad():
        next(engine.module.parameters())[:] = float("nan")
    before = plugin.weights.tolist()
    record = plugin.after_step(4)
    return {"record": record, "moved": plugin.weights.tolist() != before}


def complaints(folder: Path) -> dict[str, str]:
    engine = new_engine()
    plugin = new_plugin(engine, folder)
    plugin.next_batch()
    messages = {}
    for name, act in {
        "out of step": lambda: plugin.after_step(2),
        "other seed": lambda: new_plugin(
            engine, folder, sampling=Sampling(seed=6)
        ).load_state_dict(plugin.state_dict()),
        "other domains": lambda: new_plugin(
            engine,
            folder,
            domains=open_sets(folder)[0][:2],
            scheduler=Dga(uniform_weights(2), 0.5),
        ).load_state_dict(plugin.state_dict()),
        "wrong number of weights": lambda: new_plugin(
            engine, folder, scheduler=Dga(uniform_weights(5), 0.5)
        ),
        "interval": lambda: new_plugin(engine, folder, interval=0),
    }.items():
        try:
            act()
            messages[name] = ""
        except (ValueError, ResumeError) as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def batches_until_exhausted(folder: Path) -> dict[str, int]:
    """Hand out batches under a cap on repetitions; reading ahead must not end it early."""
    engine = new_engine()
    domains, _ = open_sets(folder)
    plugin = new_plugin(
        engine,
        folder,
        scheduler=Static(uniform_weights(len(domains))),
        sampling=Sampling(seed=5, max_epochs=1.0, prefetch=4),
    )
    handed_out = 0
    try:
        while True:
            plugin.next_batch()
            handed_out += 1
    except ExhaustedError:
        windows = sum(domain.num_sequences for domain in domains)
        return {"handed_out": handed_out, "full_batches": windows // GLOBAL_BATCH_SIZE}


def kept_estimates(folder: Path) -> list[Any]:
    """Measure in flight on batches that never hold the last domain, which is refreshed apart."""
    engine = new_engine()
    plugin = new_plugin(
        engine,
        folder,
        scheduler=Dga(np.array([0.5, 0.5, 0.0]), 1e-6),  # hardly moves: both others stay in
        interval=1,
        probe=sized(METHODS["in_flight"], 2, 3),
    )
    _, records = train(engine, plugin, until=5)
    return [record["update"] for record in records]


def resumed(folder: Path, method: Probe) -> dict[str, Any]:
    """Save after three updates; go on, and go on from what was saved, on the same parameters.

    A learning rate of 0 holds them still, so that records differ by what a plugin remembers.
    """
    still = {"type": "AdamW", "params": {"lr": 0.0, "torch_adam": True}}
    engine = new_engine(optimizer=still)
    options: dict[str, Any] = {"interval": 1, "probe": sized(method, 2, 3)}
    plugin = new_plugin(engine, folder, **options)
    train(engine, plugin, until=3)
    saved = io.BytesIO()
    torch.save(plugin.state_dict(), saved)
    state = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    fresh = new_plugin(engine, folder, **options).state_dict()
    forgetful = {**state, "observer": fresh["observer"]}
    found: dict[str, Any] = {"uninterrupted": measured(train(engine, plugin, until=6)[1])}
    for name, each in {"resumed": state, "forgetful": forgetful}.items():
        other = new_plugin(engine, folder, **options)
        other.load_state_dict(each)
        found[name] = measured(train(engine, other, until=6)[1])
    return found


def measured(records: list[Any]) -> list[Any]:
    """What was measured and what came of it, not how long it took."""
    times = ("observed_overhead", "probe_s")
    return [{k: v for k, v in r["update"].items() if k not in times} for r in records]


def unfinished(folder: Path) -> dict[str, Any]:
    """Prepare an update in flight and never train its step."""
    engine = new_engine()
    options: dict[str, Any] = {"interval": 1, "probe": METHODS["in_flight"]}
    plugin = new_plugin(engine, folder, **options)
    hooks = [num_hooks(engine)]
    plugin.next_batch()
    hooks.append(num_hooks(engine))
    plugin.close()
    hooks.append(num_hooks(engine))
    untrained = new_plugin(engine, folder, **options)
    untrained.next_batch()
    try:
        untrained.after_step(1)
        complaint = ""
    except ValueError as error:
        complaint = str(error)
    hooks.append(num_hooks(engine))
    return {"hooks": hooks, "complaint": complaint}


def num_hooks(engine: Any) -> int:
    modules = list(engine.module.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def odm_and_resumed(folder: Path) -> dict[str, Any]:
    """Follow losses for 6 steps, saved after 3 of them: in the middle of an interval."""
    engine = new_engine()
    plugin, resumed = (
        new_plugin(engine, folder, interval=2, scheduler=Odm(uniform_weights(3))) for _ in range(2)
    )

    def go_on(plugin: MixturePlugin, until: int) -> list[Any]:
        records = []
        while plugin.step < until:
            indices = plugin.next_indices()
            losses = 1.0 + indices.global_domains / (1.0 + indices.step)
            plugin.observe_losses(indices.global_domains, losses)
            records.append(plugin.after_step(indices.step))
        return records

    go_on(plugin, until=3)
    saved = io.BytesIO()
    torch.save(plugin.state_dict(), saved)
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    records, again = go_on(plugin, until=6), go_on(resumed, until=6)
    return {"records": records, "again": again}


def main(output: str, folder: str) -> None:
    root = Path(folder)
    report: dict[str, Any] = {"run": uninterrupted_and_resumed(root)}
    with checked_already():  # the model and the settings are those of the first engine
        report |= {
            "tokens": tokens_are_those_of_the_indices(root),
            "poisoned": poisoned(root),
            "complaints": complaints(root),
            "odm": odm_and_resumed(root),
            "exhausted": batches_until_exhausted(root),
            "kept_estimates": kept_estimates(root),
            "resumed": {name: resumed(root, METHODS[name]) for name in REMEMBERING},
            "unfinished": unfinished(root),
        }
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
