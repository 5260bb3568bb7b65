"""Trains with and without probes under frozen weights; both must leave the same bits."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megadga.mixers.probing import Sharded
from megadga.mixers.static import Static, uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.train.ranks import destroy_process_group
from tests.support.checks import checked_already
from tests.support.engines import (
    build_engine,
    fingerprint,
    full_parameters,
    init_ranks,
    settings,
)
from tests.support.probe_cases import ProbeCase, no_trace_cases
from tests.support.probed_models import PROBED_MODELS
from tests.support.probes import BETWEEN_STEPS, METHODS, sized
from tests.support.schedulers import FrozenProbing
from tests.support.shards import open_sets

STEPS = 6
"""Of three updates: a direction is found, used again and found anew, as are estimates."""


def train(
    folder: Path, case: ProbeCase, method: str | None, *, checked: bool = False
) -> dict[str, Any]:
    """Train; with a method, probe with it, after a check unless its kind has been ``checked``."""
    domains, specific = open_sets(folder)
    probing = method is not None
    probed = PROBED_MODELS[case.model]
    engine = build_engine(probed.build, settings(case.kind, case.precision))
    probed.prepare(engine)
    torch.manual_seed(3)  # dropout masks
    num_domains = len(domains)
    with checked_already(checked):
        plugin = MixturePlugin(
            engine,
            domains,
            specific,
            FrozenProbing(num_domains) if probing else Static(uniform_weights(num_domains)),
            sampling=Sampling(seed=5),
            interval=2,
            probe=sized(METHODS[method or "sharded"], 2, 3),
            loss=probed.loss,
        )
    losses: list[float] = []
    num_updates = 0
    for step in range(1, STEPS + 1):
        for position, tokens in enumerate(plugin.next_batch().tokens):
            loss = probed.loss(engine, tokens)
            losses.append(float(loss))
            engine.backward(loss)
            if method in BETWEEN_STEPS and position == 0 and step % 4 == 3:  # an open window
                assert plugin._measurement is not None
                plugin._measurement.measure(step)
                full_parameters(engine)  # fails under ZeRO-3 where a probe left some gathered
            engine.step()
        num_updates += "update" in plugin.after_step(step)
    result = {
        "losses": losses,
        "parameters": fingerprint(full_parameters(engine)),
        "updates": num_updates,
    }
    engine.destroy()
    return result


def _check_once(names: Sequence[str]) -> dict[str, bool]:
    """Tell of each probe whether one that is checked in the same way comes before it."""
    derivatives = [not isinstance(METHODS[name], Sharded) for name in names]
    return {name: derivatives[nth] in derivatives[:nth] for nth, name in enumerate(names)}


def results_of(folder: Path, case: ProbeCase, names: Sequence[str]) -> dict[str, Any]:
    """Train without a probe, and with each."""
    return {
        **dataclasses.asdict(case),
        "without": train(folder, case, None),
        "with": {
            name: train(folder, case, name, checked=checked)
            for name, checked in _check_once(names).items()
        },
    }


def main(output: str, folder: str, family: str) -> None:
    cases = no_trace_cases(init_ranks(), family)
    results = [results_of(Path(folder), *each) for each in cases]
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(results))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
