"""Trains each case on this rank and compares with what is predicted.

``python -m tools.plan_bench.worker OUTPUT CASES``, on every rank. Collective throughout.
"""

import gc
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megadga.accelerators import ACCELERATORS
from megadga.config.llama_shapes import PRESETS
from megadga.console import run_program
from megadga.model.llama import NORM_EPSILON, Llama
from megadga.planning.calibration import measure_constants
from megadga.planning.communication import step_traffic
from megadga.planning.constants import Constants, assumed_constants
from megadga.planning.duration import Cluster, step_time
from megadga.planning.memory import predict_memory
from megadga.probes.loss import mean_loss
from megadga.train.ranks import process_group

from ..alignment_bench.storages import LiveStorages
from ..alignment_bench.traffic import Traffic
from .case import Case, Row, from_json

_STEPS = 3  # that are timed together
_OPERATIONS = {
    "allreduce": "all-reduce",
    "allgather_base": "all-gather",
    "reduce_scatter_base": "reduce-scatter",
}


def main() -> None:
    """Measure every case; rank 0 writes the rows."""
    output, cases = Path(sys.argv[1]), from_json(sys.argv[2])
    with process_group():
        rows = [_measure(case) for case in cases]
        if dist.get_rank() == 0:
            output.write_text(json.dumps(rows))


def _measure(case: Case) -> Row:
    engine = _engine(case)
    workload = case.workload(dist.get_world_size())
    shape = (case.accumulation, case.micro_batch, case.sequence_length + 1)
    batch = torch.randint(case.vocabulary_size, shape).to(engine.device)
    _train(engine, batch)  # makes the optimizer's states
    gc.collect()
    resident = _resident_bytes(engine)
    with LiveStorages() as storages:
        _train(engine, batch)
    with Traffic() as traffic:
        _train(engine, batch)
    predicted = predict_memory(workload)
    row: Row = {
        "case": vars(case),
        "ranks": workload.ranks,
        "parameters": [_num_parameters(engine.module), workload.decoder.num_parameters],
        "resident_bytes": [resident, sum(predicted.resident.values())],
        "peak_bytes": [resident + storages.peak, predicted.peak],
        "sent_bytes": [_counted(traffic), _expected(workload)],
    }
    if case.rounds:
        row["seconds"] = _seconds(case, engine, batch)
    engine.destroy()
    return row


def _train(engine: Any, batch: Tensor) -> None:
    for tokens in batch:
        engine.backward(mean_loss(engine, tokens))
        engine.step()


def _engine(case: Case) -> Any:
    settings = case.settings()
    with deepspeed.zero.Init(config_dict_or_path=settings, enabled=case.stage == 3):
        model = _transformers_model(case) if case.transformers else _own_model(case)
    initialize: Any = deepspeed.initialize  # pyright: ignore[reportUnknownVariableType]
    # its annotations refuse what its docstring asks for
    engine, *_ = initialize(
        model=model, model_parameters=list(model.parameters()), config=settings
    )
    for module in model.modules():  # zero.Init moves parameters only, not buffers
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(engine.device))
    return engine


def _own_model(case: Case) -> nn.Module:
    return Llama(
        PRESETS[case.preset],
        vocabulary_size=case.vocabulary_size,
        sequence_length=case.sequence_length,
        seed=0,
        checkpoint_activations=case.checkpointing,
    )


def _transformers_model(case: Case) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (slow to import)

    from megadga.model.hugging_face import HuggingFaceDecoder  # noqa: PLC0415

    shape = PRESETS[case.preset]
    configure: Any = LlamaConfig  # takes more than it declares
    config = configure(
        vocab_size=case.vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=case.sequence_length,
        rms_norm_eps=NORM_EPSILON,
        tie_word_embeddings=shape.tied_embeddings,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    return HuggingFaceDecoder(model.train())


def _num_parameters(module: nn.Module) -> int:
    return sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())


def _resident_bytes(engine: Any) -> int:
    """Return the bytes of what this engine keeps between steps, each storage once.

    Buffers of the model (tables of rotary embeddings) are left out. What other engines of this
    process left behind is not reached from this one.
    """
    buffers = {_key(buffer) for buffer in engine.module.buffers()}
    seen: dict[int, int] = {}
    visited: set[int] = set()
    waiting: list[Any] = [engine.module, engine.optimizer, engine.basic_optimizer]
    while waiting:
        value = waiting.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, Tensor) and value.device.type != "meta":
            if _key(value) not in buffers:
                seen[_key(value)] = value.untyped_storage().nbytes()
            waiting += [value.grad] if value.is_leaf else []
        waiting += _reached(value)
    return sum(seen.values())


def _reached(value: Any) -> list[Any]:
    """Return what a container holds, or an object of torch's or DeepSpeed's."""
    if isinstance(value, dict):
        return list(cast("dict[Any, Any]", value).values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(cast("list[Any]", value))
    known = type(value).__module__.startswith(("deepspeed", "torch", "megadga", "transformers"))
    is_class = isinstance(value, type)
    return list(getattr(value, "__dict__", {}).values()) if known and not is_class else []


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _counted(traffic: Traffic) -> Row:
    """Return the bytes of collectives, without those of a few numbers."""
    return {_OPERATIONS.get(k, k): size for k, size in traffic.others.items() if size > 10_000}


def _expected(workload: Any) -> Row:
    traffic = step_traffic(workload)
    total: Counter[str] = Counter()
    for each in (*traffic.forward, *traffic.backward):
        total[each.operation] += int(workload.accumulation * each.payload)
    for each in traffic.once:
        total[each.operation] += int(each.payload)
    return dict(total)


def _seconds(case: Case, engine: Any, batch: Tensor) -> Row:
    """Time steps, and constants in turn; the fastest of either, as what else runs only slows."""
    predicted: list[float] = []
    measured: list[float] = []
    ranks = dist.get_world_size()
    for _ in range(case.rounds):
        constants = _constants(case, engine)
        predicted.append(step_time(case.workload(ranks), Cluster(constants, ranks)).total)
        dist.barrier()
        start = time.perf_counter()
        for _ in range(_STEPS):
            _train(engine, batch)
        dist.barrier()
        measured.append((time.perf_counter() - start) / _STEPS)
    ratio = min(predicted) / min(measured)
    return {"ratio": ratio, "predicted_s": predicted, "measured_s": measured}


def _constants(case: Case, engine: Any) -> Constants:
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    found = dict(measure_constants(engine.device, dtype))
    return assumed_constants(ACCELERATORS["h100"]).with_values(found, "measured")


if __name__ == "__main__":
    run_program(main)
