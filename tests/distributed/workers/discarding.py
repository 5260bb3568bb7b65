"""Trains with a batch that is left out, and without that batch; both must have the same bits.

Then goes back to a checkpoint on the engine that trains, and trains the same batches again.
"""

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megadga.probes.discarding import check_discarding, discard_update
from megadga.probes.weights_only import WeightsOnlyEngine
from megadga.train.ranks import destroy_process_group
from tests.support.engines import build_engine, fingerprint, full_parameters, init_ranks, settings
from tests.support.probed_models import small
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY

CASES = (
    *(("0", "fp32"), ("0", "bf16"), ("1", "bf16"), ("2", "fp32"), ("2-offload", "bf16")),
    *(("3-released", "fp32"), ("3-released", "bf16")),  # ZeRO-3 changes torch, and comes last
)
SCHEDULE = {"type": "WarmupLR", "params": {"warmup_num_steps": 9, "warmup_min_lr": 1e-4}}
ORDINARY, SPIKE = 1.0, 1e3


def run_passes(engine: Any, number: int, scale: float) -> None:
    """Run a window up to its last ``step``; weighted so that its gradient is ``scale`` times."""
    for micro in range(2):
        draw = torch.Generator().manual_seed(1000 * number + 10 * micro + dist.get_rank())
        tokens = torch.randint(VOCABULARY, (2, SEQUENCE_LENGTH + 1), generator=draw)
        engine.backward(engine(tokens).mean() * scale)
        if micro == 0:
            engine.step()


def train(engine: Any, number: int, scale: float) -> None:
    run_passes(engine, number, scale)
    engine.step()


def leave_out(engine: Any, number: int, scale: float) -> None:
    run_passes(engine, number, scale)
    discard_update(engine)


def state(engine: Any) -> dict[str, Any]:
    """Return digests of all that training goes on from, of this rank. Collective."""
    optimizer = engine.basic_optimizer
    held: dict[str, Tensor] = {}
    for index, (parameter, moments) in enumerate(optimizer.state.items()):
        # ZeRO-3 leaves what happened to be in memory in its padding, which never has moments.
        held[f"{index}"] = parameter.detach()[moments["exp_avg"] != 0.0]
        for name, value in moments.items():
            held[f"{index}.{name}"] = torch.as_tensor(value).detach().reshape(-1)
    return {
        "parameters": fingerprint(full_parameters(engine)),
        "optimizer": fingerprint(held),
        "num_moments": len(held),
        "rate": engine.get_lr(),
        "rates_seen": engine.lr_scheduler.last_batch_iteration,
    }


def run_case(kind: str, precision: str, folder: Path) -> dict[str, Any]:
    engines = [
        build_engine(small, settings(kind, precision, scheduler=SCHEDULE)) for _ in range(2)
    ]
    one, other = engines
    check_discarding(one)
    for engine in engines:
        train(engine, 1, ORDINARY)
    before = state(one)
    for number, bad in ((2, SPIKE), (3, math.nan)):
        leave_out(one, number, bad)
    after = state(one)
    for engine in engines:
        train(engine, 4, ORDINARY)
    went_on, without = state(one), state(other)

    saving = WeightsOnlyEngine(one)
    one.save_checkpoint(str(folder), "kept", {"megadga": {}}, save_latest=False)
    for number in (5, 6):
        train(one, number, ORDINARY)
    first = state(one)
    train(one, 7, SPIKE)
    saving.load_checkpoint(str(folder), "kept")
    loaded = state(one)
    for number in (5, 6):
        train(one, number, ORDINARY)
    again = state(one)
    for engine in engines:
        engine.destroy()
    return {
        "case": f"{kind} {precision}",
        "left_out": [before, after],
        "went_on": [without, went_on],
        "loaded": [went_on, loaded],
        "again": [first, again],
        "skipped": one.skipped_steps,
    }


def main() -> None:
    output = Path(sys.argv[1])
    init_ranks()
    found: list[Any] = []
    for kind, precision in CASES:
        shared = [tempfile.mkdtemp(dir=output.parent)]
        dist.broadcast_object_list(shared)
        found.append(run_case(kind, precision, Path(shared[0])))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    if dist.get_rank() == 0:
        output.write_text(json.dumps(everyone))
    destroy_process_group()


if __name__ == "__main__":
    main()
