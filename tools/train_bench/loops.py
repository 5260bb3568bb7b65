"""The two training loops that are compared, on the ranks of a group."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import deepspeed
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megadga.config.deepspeed import deepspeed_settings
from megadga.config.llama_shapes import PRESETS
from megadga.config.loading import load_config
from megadga.data.create import create_domain
from megadga.data.manifest import TokenizerIdentity
from megadga.model.llama import NORM_EPSILON
from megadga.train.assembly import open_run
from megadga.train.loop import train
from megadga.train.ranks import process_group

from .case import Case, Side

Loop = Callable[[int], None]
"""Trains a number of optimizer steps. Collective."""

_NUM_DOMAINS = 8
_NUM_BATCHES = 16
_RUN = """\
seed: 0
output: out
model: {{type: llama, preset: {preset}, sequence_length: {sequence_length}}}
data: {{domains: domains}}
mixing: {{type: static, weights: uniform}}
training:
  steps: 1000000
  global_batch_size: {global_batch}
  micro_batch_size: {micro_batch}
  precision: {precision}
deepspeed:
  zero_optimization: {{stage: {stage}}}
  gradient_clipping: 1.0
  optimizer: {{type: AdamW, params: {{torch_adam: true, lr: 1.0e-4}}}}
evaluation: null
checkpoint: null
"""


def write_run(case: Case) -> None:
    """Write the run of a case: its configuration, and shards of random ids."""
    tokenizer = TokenizerIdentity(
        "sentencepiece", "0" * 64, vocab_size=case.vocabulary_size, eod=2
    )
    size = 256 * (case.workload.sequence_length + 1)
    for index in range(_NUM_DOMAINS):
        ids = np.random.default_rng(index).integers(case.vocabulary_size, size=size)
        create_domain(case.folder / "domains" / f"d{index}", tokenizer, {"train": [ids]})
    text = _RUN.format(
        preset=case.workload.preset,
        sequence_length=case.workload.sequence_length,
        precision=case.workload.precision,
        global_batch=case.ranks * case.micro_batch,
        micro_batch=case.micro_batch,
        stage=case.stage,
    )
    case.config.write_text(text)


class _NoMarkers:
    """Leaves out what happens once a run, not once a turn; ``Markers``."""

    def end(self, step: int, *, finished: bool) -> None:
        """Do nothing."""


@contextmanager
def megadga_loop(case: Case) -> Generator[Loop]:
    """Open the run of a case: reader, mixture, metrics and all. Collective."""
    with open_run(load_config(case.config)) as run:

        def train_steps(steps: int) -> None:
            last = run.mixture.step + steps
            train(replace(run, total_steps=last, markers=_NoMarkers()))

        yield train_steps


@contextmanager
def plain_loop(case: Case) -> Generator[Loop]:
    """Train ``LlamaForCausalLM`` under the same settings, and do nothing else. Collective.

    Batches of random ids are on the device before training starts. The model shifts its labels,
    and takes its loss by itself.
    """
    with process_group():
        engine = _engine(case)
        generator = torch.Generator().manual_seed(0)
        size = (_NUM_BATCHES, case.micro_batch, case.workload.sequence_length)
        ids = torch.randint(case.vocabulary_size, size, generator=generator).to(engine.device)
        batches = cycle(ids)

        def train_steps(steps: int) -> None:
            for tokens in islice(batches, steps):
                loss = engine(input_ids=tokens, labels=tokens, use_cache=False).loss
                engine.backward(loss)
                engine.step()

        yield train_steps


LOOPS: Mapping[Side, Callable[[Case], AbstractContextManager[Loop]]] = {
    "megadga": megadga_loop,
    "transformers": plain_loop,
}


def _engine(case: Case) -> Any:
    settings = deepspeed_settings(load_config(case.config), case.ranks)
    shape = PRESETS[case.workload.preset]
    configuration: Any = LlamaConfig  # its keywords are not all declared
    config = configuration(
        vocab_size=case.vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=case.workload.sequence_length,
        rms_norm_eps=NORM_EPSILON,
        tie_word_embeddings=shape.tied_embeddings,
        attn_implementation="sdpa",
    )
    with deepspeed.zero.Init(config_dict_or_path=settings, enabled=case.stage == 3):
        model: Any = LlamaForCausalLM(config)
    model.train()
    initialize: Any = deepspeed.initialize  # pyright: ignore[reportUnknownVariableType]
    # its annotations refuse what its docstring asks for
    engine, *_ = initialize(
        model=model, model_parameters=list(model.parameters()), config=settings
    )
    for module in model.modules():  # zero.Init moves parameters only, not buffers
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(engine.device))
    return engine
