"""Trains with a rule over basis distributions, and measures them beside float64 gradients."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megadga.arrays import IntArray
from megadga.data.domain import Domain
from megadga.data.folder import DomainSource, open_domain, open_split, read_folders
from megadga.data.probe_draws import ProbeSampler
from megadga.data.reader import read_windows
from megadga.data.sampler import Selection
from megadga.mixers.base import AlignmentNeeds, Mixtures
from megadga.mixers.basis import OverBasis
from megadga.mixers.dga import Dga
from megadga.mixers.probing import DIRECTIONAL, Directional, InFlight, Probe, Sharded
from megadga.mixers.static import uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.measuring import make_measurement
from megadga.train.ranks import destroy_process_group
from tests.distributed.workers.exactness import largest_error
from tests.support.engines import build_engine, settings
from tests.support.mixtures import mixtures_of
from tests.support.probed_models import PROBED_MODELS
from tests.support.probes import sized
from tests.support.references import reference_of
from tests.support.shards import SEQUENCE_LENGTH

SEED, UPDATE = 5, 3
BUDGET = (6, 7)
PROBED = PROBED_MODELS["llama"]


def open_clusters(folder: Path) -> tuple[list[Domain], Domain]:
    folders = read_folders(folder / "clusters")
    opened = open_split(folders, split="train", sequence_length=SEQUENCE_LENGTH)
    source = DomainSource("specific", folder / "specific")
    specific = open_domain(source, split="train", sequence_length=SEQUENCE_LENGTH)
    return list(opened.domains), specific


def basis_over(num_domains: int) -> Mixtures:
    rng = np.random.default_rng(1)
    rows = rng.dirichlet(np.ones(num_domains), size=3)
    rows[0, 1:] = 0.0
    return mixtures_of(rows / rows.sum(axis=1, keepdims=True))


def drawn(domains: list[Domain], specific: Domain, mixtures: Mixtures) -> list[IntArray]:
    """The tokens of each distribution, then of the specific set."""
    sizes = np.array([each.num_sequences for each in (*domains, specific)])
    sampler = ProbeSampler(sizes, seed=SEED)
    tokens: list[IntArray] = []
    for index in range(len(mixtures.names)):
        at, shares = mixtures.row(index)
        found = sampler.draw_mixture(UPDATE, index, 6, domains=at, shares=shares)
        tokens.append(read_windows(domains, found))
    found = sampler.draw(UPDATE, len(domains), 7)
    return [*tokens, read_windows([specific], Selection(np.zeros(7, np.int64), found.sequences))]


def largest_errors(engine: Any, folder: Path) -> dict[str, float]:
    """Measure by both ways that can; relative to |g_j||v|."""
    domains, specific = open_clusters(folder)
    mixtures = basis_over(len(domains))
    *rows, target = drawn(domains, specific, mixtures)
    reference = reference_of(engine, PROBED)
    errors: dict[str, float] = {}
    for name, probing in {
        "directional": sized(Directional(), *BUDGET),
        "sharded": sized(Sharded(), *BUDGET),
    }.items():
        needs = AlignmentNeeds(mixtures=mixtures)
        measurement = make_measurement(
            engine, domains, specific, probe=probing, needs=needs, loss=PROBED.loss, seed=SEED
        )
        errors[name] = largest_error(measurement.measure(UPDATE), reference, target, rows)
    return errors


def new_plugin(engine: Any, folder: Path, probe: Probe = DIRECTIONAL) -> MixturePlugin:
    domains, specific = open_clusters(folder)
    rule = OverBasis(Dga(uniform_weights(3), 5.0, ema=0.5), basis_over(len(domains)))
    return MixturePlugin(
        engine,
        domains,
        specific,
        rule,
        sampling=Sampling(seed=SEED),
        interval=2,
        probe=sized(probe, *BUDGET),
        loss=PROBED.loss,
    )


def train(engine: Any, plugin: MixturePlugin, until: int) -> list[Any]:
    updates: list[Any] = []
    while plugin.step < until:
        batch = plugin.next_batch()
        for tokens in batch.tokens:
            engine.backward(PROBED.loss(engine, tokens))
            engine.step()
        updates += [each for each in [plugin.after_step(batch.step).get("update")] if each]
    return updates


def trained_and_resumed(engine: Any, folder: Path) -> dict[str, Any]:
    """Train 4 steps, and load the state into another plugin that measures the same update."""
    plugin = new_plugin(engine, folder)
    updates = train(engine, plugin, until=4)
    saved = io.BytesIO()
    torch.save(plugin.state_dict(), saved)
    resumed = new_plugin(engine, folder)
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    pairs: list[list[Any]] = []
    for each in (plugin, resumed):
        each.next_indices()
        each.next_indices()
        update = each.after_step(6)["update"]
        pairs.append([update[name] for name in ("alignments", "basis_weights", "weights")])
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, plugin.weights.tolist())
    return {"updates": updates, "pairs": pairs, "by_rank": everyone}


def refusal(engine: Any, folder: Path) -> str:
    try:
        new_plugin(engine, folder, sized(InFlight(), *BUDGET))
    except ValueError as error:
        return str(error)
    return ""


def main(output: str, folder: str) -> None:
    root = Path(folder)
    engine = build_engine(PROBED.build, settings("2", "fp32", **PROBED.settings))
    PROBED.prepare(engine)
    report = {
        "errors": largest_errors(engine, root),
        "run": trained_and_resumed(engine, root),
        "refusal": refusal(engine, root),
    }
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
