"""Loads engines' checkpoints into engines of other layouts, and compares what both hold.

Run on every rank. Takes layouts as JSON, each ``[kind, precision]``: each engine loads what the
one before it has saved. Writes for each pair the names of what differs in any bit, or beyond
rounding after one more step of both.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from megadga.config.changes import find_changes
from megadga.config.llama_shapes import PRESETS
from megadga.model.llama import Llama
from megadga.train.restoring import ResumableEngine
from tests.support.engines import build_engine, init_ranks, settings

MOMENTS = ("exp_avg", "exp_avg_sq")
NUM_STEPS = 3


def build() -> Llama:
    return Llama(PRESETS["nano"], vocabulary_size=37, sequence_length=8, seed=3)


def make(kind: str, precision: str) -> Any:
    more: dict[str, Any] = {}
    if kind == "1-accumulated":  # in float32: DeepSpeed's BF16_Optimizer
        kind, more = "1", {"data_types": {"grad_accum_dtype": "fp32"}}
    if kind == "3-subgroups":
        kind, more = "3", {"zero_optimization": {"stage": 3, "sub_group_size": 5000}}
    if kind == "2-round-robin":
        kind, more = "2", {"zero_optimization": {"stage": 2, "round_robin_gradients": True}}
    return build_engine(build, settings(kind, precision, gradient_clipping=1.0, **more))


def train(engine: Any, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed + dist.get_rank())
    for _ in range(engine.gradient_accumulation_steps()):
        tokens = torch.randint(37, (2, 9), generator=generator)
        engine.backward(engine(tokens).mean())
        engine.step()


def held(engine: Any) -> dict[str, Tensor]:
    """Everything that an engine goes on from, whole, as DeepSpeed's own interface tells it."""
    found: dict[str, Any] = {}
    optimizer = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()  # as the next step does
    masters = [p for group in engine.basic_optimizer.param_groups for p in group["params"]]
    for index, (name, parameter) in enumerate(engine.module.named_parameters()):
        with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
            found[f"{name} itself"] = parameter.detach().clone().float()
        if stage == 2 and optimizer.round_robin_gradients:
            continue  # DeepSpeed takes those of other parameters for it
        if stage:
            found[name] = safe_get_full_fp32_param(parameter)
        else:
            found[name] = masters[index].detach().clone()
        for key in MOMENTS:
            if stage:
                found[f"{name} {key}"] = safe_get_full_optimizer_state(parameter, key)
            else:
                found[f"{name} {key}"] = engine.basic_optimizer.state[masters[index]][key].clone()
    if stage == 3:
        optimizer._set_fp32_optimizer_param_groups()
    base = engine.basic_optimizer.state_dict()
    if stage == 3:
        optimizer._clear_fp32_optimizer_param_groups()
    found["step"] = torch.stack([entry["step"] for entry in base["state"].values()]).unique()
    counted = [engine.global_steps, engine.global_samples, engine.skipped_steps]
    found["counted"] = torch.tensor(counted)
    return {name: tensor.clone() for name, tensor in found.items()}


def identity(engine: Any) -> dict[str, Any]:
    zero = {"stage": engine.zero_optimization_stage(), "sub_group_size": id(engine)}
    return {"ranks": dist.get_world_size(), "deepspeed": {"zero_optimization": zero}}


def _apart(old: dict[str, Tensor], new: dict[str, Tensor], *precisions: str) -> list[str]:
    """Names of the weights that one more step has led elsewhere, beyond rounding."""
    tolerance = 1e-6 if set(precisions) == {"fp32"} else 5e-2
    return [
        f"{name}, a step later"
        for name in old
        if name.endswith(" itself") and (old[name] - new[name]).abs().max() > tolerance
    ]


def compare(old: Any, new: Any, before: list[str], after: list[str], folder: Path) -> list[str]:
    """Save one engine and load the other; return the names of what differs. Collective."""
    state = {"megadga": {"weights": torch.arange(3.0), "step": NUM_STEPS}}
    old.save_checkpoint(str(folder), "tag", state, save_latest=False)
    expected = held(old)
    changes = find_changes(identity(old), identity(new))
    _, client = ResumableEngine(new).load_checkpoint(str(folder), "tag", changes)
    assert torch.equal(client["megadga"]["weights"], torch.arange(3.0))
    found = held(new)
    rounded = before[1] != after[1]  # the parameters, whose float32 weights are kept
    differing = [
        key
        for key in expected.keys() & found
        if not (rounded and key.endswith(" itself")) and not torch.equal(expected[key], found[key])
    ]
    for engine in (old, new):
        train(engine, seed=50)
    return differing + _apart(held(old), held(new), before[1], after[1])


def main() -> None:
    output, layouts = Path(sys.argv[1]), json.loads(sys.argv[2])
    init_ranks()
    differing: dict[str, list[str]] = {}
    old = make(*layouts[0])
    for step in range(NUM_STEPS):
        train(old, seed=10 * step)
    for before, after in pairwise(layouts):
        name = " to ".join(" ".join(each) for each in (before, after))
        new = make(*after)
        folder = output.parent / name.replace(" ", "-")
        differing[name] = compare(old, new, before, after, folder)
        old.destroy()
        old = new
    if dist.get_rank() == 0:
        output.write_text(json.dumps(differing))
    dist.barrier()


if __name__ == "__main__":
    main()
