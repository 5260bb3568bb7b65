"""Trains with and without probes under frozen weights; both must leave the same bits."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megadga.alignment.methods import ProbeBudget, Probing
from megadga.build.ranks import leave
from megadga.mixing.static import Static, uniform_weights
from megadga.plugin import DgaPlugin, Sampling
from tests.support.engines import build_engine, fingerprint, full_parameters, settings
from tests.support.models import SmallDecoder
from tests.support.probes import BETWEEN_STEPS, METHODS
from tests.support.schedulers import FrozenProbing
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY, open_sets

STEPS = 20


def build_module() -> nn.Module:
    return SmallDecoder(VOCABULARY, SEQUENCE_LENGTH, scalar=True, dropout=0.1)


def train(folder: Path, kind: str, precision: str, method: str | None) -> dict[str, Any]:
    domains, specific = open_sets(folder)
    probing = method is not None
    engine = build_engine(build_module, settings(kind, precision))
    torch.manual_seed(3)  # dropout masks
    num_domains = len(domains)
    plugin = DgaPlugin(
        engine,
        domains,
        specific,
        FrozenProbing(num_domains) if probing else Static(uniform_weights(num_domains)),
        sampling=Sampling(seed=5),
        interval=3,
        probing=Probing(METHODS[method or "sharded"], ProbeBudget(2, 3)),
    )
    losses: list[float] = []
    num_updates = 0
    for step in range(1, STEPS + 1):
        for position, tokens in enumerate(plugin.next_batch().tokens):
            loss = engine(tokens)
            losses.append(float(loss))
            engine.backward(loss)
            if method in BETWEEN_STEPS and position == 0 and step % 7 == 0:  # an open window
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


def main(output: str, folder: str, kinds: str) -> None:
    results = [
        {
            "kind": kind,
            "precision": precision,
            "without": train(Path(folder), kind, precision, None),
            "with": {name: train(Path(folder), kind, precision, name) for name in METHODS},
        }
        for kind in kinds.split(",")
        for precision in ("fp32", "bf16")
    ]
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
