"""Data mixing in the Trainer of Hugging Face's transformers, with checkpoints that resume exactly.

    deepspeed docs/examples/hf_trainer.py --domains shards/generic \
        --specific shards/specific/target --deepspeed-config docs/examples/hf_trainer.json

The same command again continues from the last checkpoint.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from megadga import (
    Dga,
    DomainSource,
    MixtureCallback,
    MixtureDataset,
    Sampling,
    SequenceDataset,
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
    parser.add_argument("--deepspeed-config", required=True, help="DeepSpeed's JSON")
    parser.add_argument("--sequence-length", type=int, default=128, help="targets of a sequence")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--output", type=Path, default=Path("runs/trainer"), help="checkpoints")
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    options = parser.parse_args()

    length = options.sequence_length
    domains = open_domains(options.domains, split="train", sequence_length=length)
    source = DomainSource("specific", options.specific)
    specific = open_domain(source, split="train", sequence_length=length)
    validation = open_domain(source, split="valid", sequence_length=length)

    options.output.mkdir(parents=True, exist_ok=True)
    args = TrainingArguments(
        output_dir=str(options.output),
        deepspeed=options.deepspeed_config,
        max_steps=options.steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
    )
    model = build_model(domains[0].tokenizer.vocab_size, length)

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=MixtureDataset(domains, args),
        eval_dataset=SequenceDataset(validation),
    )
    scheduler = Dga(uniform_weights(len(domains)), step_size=0.3, ema=0.1)
    mixture = MixtureCallback(trainer, specific, scheduler, sampling=Sampling(seed=17), interval=5)
    trainer.add_callback(mixture)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir))

    if trainer.is_world_process_zero() and mixture.plugin is not None:
        for domain, weight in zip(domains, mixture.plugin.weights, strict=True):
            print(f"{domain.name}: {weight:.6f}")
    torch.distributed.barrier()  # gloo's threads let go of tensors before the interpreter ends
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
