"""Data mixing in TRL's SFTTrainer: dialogues, with the loss on the assistant's turns alone.

    megadga data build --chat --input 'chat/*.jsonl' --tokenizer MODEL --output shards/chat
    megadga data build --chat --input 'target.*.jsonl' --tokenizer MODEL --output shards/specific

    deepspeed docs/examples/trl_sft.py --domains shards/chat --specific shards/specific/target \
        --tokenizer MODEL --deepspeed-config docs/examples/hf_trainer.json
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, set_seed
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from megadga import (
    Dga,
    Directional,
    DomainSource,
    MixtureCallback,
    MixtureDataset,
    Sampling,
    SequenceDataset,
    open_chat,
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
    )
    set_seed(17)
    return AutoModelForCausalLM.from_config(config)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--domains", type=Path, required=True, help="a folder of sets of dialogues"
    )
    parser.add_argument("--specific", type=Path, required=True, help="the specific set's folder")
    parser.add_argument(
        "--tokenizer", required=True, help="the one that the shards are built with"
    )
    parser.add_argument("--deepspeed-config", required=True, help="DeepSpeed's JSON")
    parser.add_argument("--sequence-length", type=int, default=128, help="targets of a sequence")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--output", type=Path, default=Path("runs/sft"), help="checkpoints")
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    options = parser.parse_args()

    length = options.sequence_length
    domains = [
        open_chat(DomainSource(folder.name, folder), split="train", sequence_length=length)
        for folder in sorted(options.domains.iterdir())
    ]
    source = DomainSource("specific", options.specific)
    specific = open_chat(source, split="train", sequence_length=length)
    validation = open_chat(source, split="valid", sequence_length=length)

    on_cpu = not torch.accelerator.is_available()
    args = SFTConfig(
        output_dir=str(options.output),
        deepspeed=options.deepspeed_config,
        max_steps=options.steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        report_to="none",
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=not on_cpu,
        use_cpu=on_cpu,
    )
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    model = build_model(specific.tokenizer.vocab_size, length)

    # SFTTrainer takes no sets but those of `datasets`: placeholders, replaced at once.
    placeholder = Dataset.from_dict({"input_ids": [[0, 0]], "labels": [[0, 0]]})
    trainer = SFTTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=placeholder,
        eval_dataset=placeholder,
    )
    trainer.train_dataset = MixtureDataset(domains, args)
    trainer.eval_dataset = SequenceDataset(validation)
    scheduler = Dga(uniform_weights(len(domains)), step_size=0.3, ema=0.1)
    mixture = MixtureCallback(
        trainer,
        specific,
        scheduler,
        sampling=Sampling(seed=17),
        interval=5,
        probe=Directional(),
    )
    trainer.add_callback(mixture)
    trainer.train()

    if trainer.is_world_process_zero() and mixture.plugin is not None:
        for domain, weight in zip(domains, mixture.plugin.weights, strict=True):
            print(f"{domain.name}: {weight:.6f}")
    torch.distributed.barrier()  # gloo's threads let go of tensors before the interpreter ends
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
