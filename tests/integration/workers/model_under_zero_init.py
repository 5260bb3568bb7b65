"""Builds the decoder under ``deepspeed.zero.Init`` and compares it with the plain one."""

import gc
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from megadga.config.llama_shapes import LlamaShape
from megadga.model.llama import Llama, NormalInitializer
from megadga.train.ranks import destroy_process_group

SHAPE = LlamaShape(
    num_layers=6,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=128,
    tied_embeddings=False,
)
VOCABULARY = 301  # odd: its matrices do not divide by the ranks


@dataclass(frozen=True)
class Found:
    """What one precision showed.

    Attributes:
        same_weights: Whether every gathered weight has the bits of the plain build.
        tables_are_float32: Whether the rotary tables have the bits of the plain float32 build.
        parameters: Numbers in the whole model.
        largest: Numbers in its largest matrix.
        partition: Numbers this rank holds when the model is built.
        peak: Most numbers alive in floating-point tensors while it was being built.
    """

    same_weights: bool
    tables_are_float32: bool
    parameters: int
    largest: int
    partition: int
    peak: int


def build() -> Llama:
    return Llama(SHAPE, vocabulary_size=VOCABULARY, sequence_length=32, seed=11)


def live_numbers() -> int:
    """Elements of all storages of floating-point tensors that Python can reach."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        // tensor.element_size()
        for tensor in gc.get_objects()
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
    }
    return sum(storages.values())


def watched_build(settings: dict) -> tuple[Llama, int]:
    """Build the model partitioned; also return the most numbers seen alive on the way.

    A weight is whole when it has just been drawn: that is when to look.
    """
    fill = NormalInitializer.__call__
    gc.collect()
    before = live_numbers()
    seen: list[int] = []

    def watched(self: NormalInitializer, weight: Tensor) -> None:
        fill(self, weight)
        seen.append(live_numbers() - before)

    NormalInitializer.__call__ = watched
    try:
        with deepspeed.zero.Init(config_dict_or_path=settings):
            model = build()
    finally:
        NormalInitializer.__call__ = fill
    return model, max(seen)


def compare(dtype: torch.dtype) -> Found:
    plain = build()
    expected = [p.detach().to(dtype).clone() for p in plain.parameters()]
    tables = plain.rotary.cosines, plain.rotary.sines
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype is torch.bfloat16},
    }
    model, peak = watched_build(settings)
    parameters = list(model.parameters())
    partition = sum(p.ds_tensor.numel() for p in parameters)  # pyright: ignore[reportAttributeAccessIssue]
    with deepspeed.zero.GatheredParameters(parameters):
        same = all(
            torch.equal(whole, weight) and whole.dtype == dtype
            for whole, weight in zip(parameters, expected, strict=True)
        )
    return Found(
        same_weights=same,
        tables_are_float32=torch.equal(model.rotary.cosines, tables[0])
        and torch.equal(model.rotary.sines, tables[1]),
        parameters=SHAPE.num_parameters(VOCABULARY),
        largest=max(weight.numel() for weight in expected),
        partition=partition,
        peak=peak,
    )


def main() -> None:
    deepspeed.init_distributed()
    found = {
        str(dtype).removeprefix("torch."): asdict(compare(dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    destroy_process_group()


if __name__ == "__main__":
    main()
