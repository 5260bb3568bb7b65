"""Trains with rules for two specific sets, and measures both beside float64 gradients."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megadga.arrays import IntArray
from megadga.data.domain import SequenceSet
from megadga.data.examples import open_examples
from megadga.data.folder import DomainSource
from megadga.errors import ResumeError
from megadga.mixers.base import AlignmentNeeds, Scheduler, TargetAlignments, TargetNeeds
from megadga.mixers.dga import Dga
from megadga.mixers.grape import Grape
from megadga.mixers.probing import DIRECTIONAL, Directional, InFlight, LowRank, Probe, Sharded
from megadga.mixers.static import Static, uniform_weights
from megadga.mixers.targets import OverTargets
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.measuring import make_measurement, make_target_measurement
from megadga.probes.sequences import ProbeSequences, ProbeSequenceSampler
from megadga.train.ranks import destroy_process_group
from tests.support.checks import checked_already
from tests.support.engines import build_engine, fingerprint, full_parameters, settings
from tests.support.probed_models import PROBED_MODELS
from tests.support.probes import sized
from tests.support.references import Reference, reference_of
from tests.support.shards import SEQUENCE_LENGTH, open_sets

SEED, UPDATE = 5, 3
BUDGET = (3, 5)
PROBED = PROBED_MODELS["llama"]
MEASURED: dict[str, tuple[Probe, TargetNeeds]] = {
    "directional": (Directional(), TargetNeeds(2)),
    "directional with norms": (Directional(), TargetNeeds(2, norms=True)),
    "sharded": (Sharded(), TargetNeeds(2, norms=True)),
}


def open_targets(folder: Path) -> list[SequenceSet]:
    """A set in windows, and one of unequal, padded examples."""
    source = DomainSource("examples", folder / "examples")
    _, stream = open_sets(folder)
    return [stream, open_examples(source, split="train", sequence_length=SEQUENCE_LENGTH)]


def new_engine(kind: str) -> Any:
    engine = build_engine(PROBED.build, settings(kind, "fp32", **PROBED.settings))
    PROBED.prepare(engine)
    return engine


def tokens_of(drawn: ProbeSequences) -> IntArray:
    return drawn.read(np.arange(len(drawn)))


def largest_error(
    found: TargetAlignments, reference: Reference, targets: list[IntArray], domains: list[IntArray]
) -> float:
    """Relative to |g_k||v_m|; norms and losses relative to themselves."""
    errors: list[float] = []
    gradients = [reference.gradient(tokens) for tokens in domains]
    for m, tokens in enumerate(targets):
        v = reference.gradient(tokens)
        errors.append(abs(found.target_squared_norms[m] / float(v @ v) - 1.0))
        errors.append(abs(found.losses[m] / reference.mean_loss(tokens).item() - 1.0))
        for k, g in enumerate(gradients):
            errors.append(abs(found.dots[m, k] - float(g @ v)) / float(g.norm() * v.norm()))
    if found.squared_norms is not None:
        for k, g in enumerate(gradients):
            errors.append(abs(found.squared_norms[k] / float(g @ g) - 1.0))
    return max(errors)


def exactness(engine: Any, folder: Path) -> dict[str, Any]:
    """Measure by each way, and the second set by itself too."""
    (domains, _), targets = open_sets(folder), open_targets(folder)
    draws = [
        ProbeSequenceSampler(domains, each, probe=sized(DIRECTIONAL, *BUDGET), seed=SEED)
        for each in targets
    ]
    of_domains = [tokens_of(draws[0].measured(UPDATE, k)) for k in range(len(domains))]
    of_targets = [tokens_of(each.specific(UPDATE)) for each in draws]
    reference, report = reference_of(engine, PROBED), {}
    options: dict[str, Any] = {"loss": PROBED.loss, "seed": SEED}
    for name, (method, needs) in MEASURED.items():
        probing = sized(method, *BUDGET)
        several = make_target_measurement(
            engine, domains, targets, probe=probing, needs=needs, **options
        ).measure(UPDATE)
        alone = make_measurement(
            engine, domains, targets[1], probe=probing, needs=AlignmentNeeds(), **options
        ).measure(UPDATE)
        report[name] = {
            "error": largest_error(several, reference, of_targets, of_domains),
            "norms": several.squared_norms is not None,
            "alone": alone.dots.tolist() == several.dots[1].tolist(),
        }
    return report


def new_plugin(
    engine: Any, folder: Path, rule: Scheduler, method: Probe = DIRECTIONAL, **more: Any
) -> MixturePlugin:
    domains, _ = open_sets(folder)
    specific = more.get("specific", open_targets(folder))
    return MixturePlugin(
        engine,
        domains,
        specific,
        rule,
        sampling=Sampling(seed=SEED),
        interval=2,
        probe=sized(method, *BUDGET),
        loss=PROBED.loss,
    )


def grape(step_size: float = 20.0) -> Grape:
    return Grape(uniform_weights(3), uniform_weights(2), step_size, task_step_size=20.0)


def worst() -> OverTargets:
    return OverTargets(Dga(uniform_weights(3), 5.0, ema=0.5), np.array([1.0, 2.0]), "worst")


def train(engine: Any, plugin: MixturePlugin, until: int) -> tuple[list[float], list[Any]]:
    losses: list[float] = []
    updates: list[Any] = []
    while plugin.step < until:
        batch = plugin.next_batch()
        for tokens in batch.tokens:
            loss = PROBED.loss(engine, tokens)
            losses.append(float(loss))
            engine.backward(loss)
            engine.step()
        updates += [each for each in [plugin.after_step(batch.step).get("update")] if each]
    return losses, updates


def trace(kind: str, folder: Path, rule: Scheduler) -> dict[str, Any]:
    """What training leaves behind under weights that stay."""
    engine = new_engine(kind)
    losses, updates = train(engine, new_plugin(engine, folder, rule), until=4)
    parameters = fingerprint(full_parameters(engine))
    engine.destroy()
    return {"bits": [losses, parameters], "updates": len(updates)}


def trained_and_resumed(engine: Any, folder: Path, rule: Scheduler) -> dict[str, Any]:
    """Train 4 steps, and load the state into another plugin that measures the same updates."""
    method = Directional(
        direction=LowRank(rank=2), direction_interval=2
    )  # which is remembered, of each set
    plugin = new_plugin(engine, folder, rule, method)
    _, updates = train(engine, plugin, until=6)
    saved = io.BytesIO()
    torch.save(plugin.state_dict(), saved)
    resumed = new_plugin(engine, folder, rule, method)
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    pair: list[Any] = []
    for each in (plugin, resumed):
        each.next_indices()
        each.next_indices()
        update = each.after_step(8)["update"]
        names = ("target_alignments", "target_losses", "target_weights", "weights")
        pair.append([update[name] for name in names])
    by_rank: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(by_rank, [plugin.weights.tolist(), updates[-1]["target_weights"]])
    return {"updates": updates, "pair": pair, "by_rank": by_rank}


def refusals(engine: Any, folder: Path) -> dict[str, str]:
    _, stream = open_sets(folder)
    other_order = open_targets(folder)[::-1]
    saved = new_plugin(engine, folder, grape()).state_dict()
    found: dict[str, str] = {}
    for name, act in {
        "in flight": lambda: new_plugin(engine, folder, grape(), InFlight()),
        "one set": lambda: new_plugin(engine, folder, grape(), specific=stream),
        "no set": lambda: new_plugin(engine, folder, grape(), specific=None),
        "several for one": lambda: new_plugin(engine, folder, Dga(uniform_weights(3), 1.0)),
        "one name": lambda: new_plugin(engine, folder, grape(), specific=[stream, stream]),
        "other sets": lambda: new_plugin(
            engine, folder, grape(), specific=other_order
        ).load_state_dict(saved),
    }.items():
        try:
            act()
            found[name] = ""
        except (ValueError, ResumeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main(output: str, folder: str, kind: str) -> None:
    root = Path(folder)
    report: dict[str, Any] = {
        "without": trace(kind, root, Static(uniform_weights(3))),
        "with": trace(kind, root, grape(step_size=0.0)),
    }
    engine = new_engine(kind)
    with checked_already():  # on the engine of the trace
        report |= {
            "exactness": exactness(engine, root),
            "grape": trained_and_resumed(engine, root, grape()),
            "worst": trained_and_resumed(engine, root, worst()),
            "refusals": refusals(engine, root),
        }
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
