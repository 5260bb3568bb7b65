"""Data mixing in a loop of Hugging Face's accelerate; the four lines are marked (1) to (4).

    accelerate launch docs/examples/accelerate_loop.py --domains shards/generic \
        --specific shards/specific/target --deepspeed-config docs/examples/plain_deepspeed.json

The same command again continues from the last checkpoint.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, PartialState
from accelerate.utils import DummyOptim, set_seed
from transformers import AutoModelForCausalLM, LlamaConfig

from megadga import (
    Dga,
    DomainSource,
    MixturePlugin,
    Sampling,
    causal_lm_loss,
    open_domain,
    open_domains,
    uniform_weights,
)


def build_model(vocabulary: int, sequence_length: int) -> Any:
    """Stands for your model."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=sequence_length + 1,
        bos_token_id=None,
        eos_token_id=None,
    )
    set_seed(17)
    return AutoModelForCausalLM.from_config(config)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domains", type=Path, required=True, help="a folder of domains")
    parser.add_argument("--specific", type=Path, required=True, help="the specific set's folder")
    parser.add_argument("--deepspeed-config", type=Path, required=True, help="DeepSpeed's JSON")
    parser.add_argument("--sequence-length", type=int, default=128, help="targets of a sequence")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--output", type=Path, default=Path("runs/accelerate"), help="checkpoint")
    options = parser.parse_args()

    length = options.sequence_length
    domains = open_domains(options.domains, split="train", sequence_length=length)
    source = DomainSource("specific", options.specific)
    specific = open_domain(source, split="train", sequence_length=length)

    PartialState(cpu=not torch.accelerator.is_available())  # gloo where there is no accelerator
    settings = json.loads(options.deepspeed_config.read_text())
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=settings),
        gradient_accumulation_steps=settings["gradient_accumulation_steps"],
    )
    model = build_model(domains[0].tokenizer.vocab_size, length)
    # The optimizer is the one of DeepSpeed's JSON; without one there, give prepare() your own.
    engine, optimizer = accelerator.prepare(model, DummyOptim(model.parameters()))

    scheduler = Dga(uniform_weights(len(domains)), step_size=0.3, ema=0.1)
    mixture = MixturePlugin(  # (1)
        engine,
        domains,
        specific,
        scheduler,
        sampling=Sampling(seed=17),
        interval=5,
        loss=causal_lm_loss,
    )
    accelerator.register_for_checkpointing(mixture)  # (2)
    if options.output.exists():
        accelerator.load_state(str(options.output))

    for step in range(mixture.step + 1, options.steps + 1):
        for tokens in mixture.next_batch().tokens:  # (3)
            with accelerator.accumulate(engine):
                accelerator.backward(engine(input_ids=tokens, labels=tokens).loss)
                optimizer.step()
                optimizer.zero_grad()
        mixture.after_step(step)  # (4)

    accelerator.save_state(str(options.output))
    for name, weight in zip(mixture.names, mixture.weights, strict=True):
        accelerator.print(f"{name}: {weight:.6f}")
    accelerator.wait_for_everyone()  # gloo's threads let go of tensors
    accelerator.end_training()


if __name__ == "__main__":
    main()
