"""Trains a small model in TRL's ``SFTTrainer``, on dialogues of which some tokens are trained."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from megadga.data.examples import Examples, open_chat
from megadga.data.folder import DomainSource
from megadga.errors import MegadgaError
from megadga.mixers.base import Scheduler
from megadga.mixers.probing import Directional, InFlight, Probe
from megadga.mixers.static import Static, uniform_weights
from megadga.plugin import Sampling
from megadga.plugin.trainer import MixtureCallback, MixtureDataset, SequenceDataset
from megadga.probes.loss import causal_lm_loss
from megadga.probes.sequences import ProbeSequenceSampler
from megadga.train.ranks import destroy_process_group
from tests.support.engines import fingerprint, full_parameters, settings
from tests.support.probed_models import ProbedModel, hf_llama
from tests.support.references import reference_of
from tests.support.schedulers import FrozenProbing
from tests.support.shards import SEQUENCE_LENGTH, open_dialogues

STEPS, SEED = 4, 5
SIZES: dict[str, Any] = {"sequences_per_domain": 3, "specific_sequences": 4}
PROBE = Directional(**SIZES)
MODEL = ProbedModel(lambda: hf_llama(longer=1), causal_lm_loss)


def open_chats(sets: Path) -> list[Examples]:
    return [
        open_chat(DomainSource(f.name, f), split="train", sequence_length=SEQUENCE_LENGTH)
        for f in sorted((sets / "dialogues").iterdir())
    ]


def build_trainer(sets: Path, output: Path, kind: str, **more: Any) -> Any:
    options: dict[str, Any] = {
        "output_dir": str(output),
        "deepspeed": settings(kind, "fp32"),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.1,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    args = SFTConfig(**(options | more))
    special = {"pad_token": "a", "eos_token": "b"}
    words = Tokenizer(WordLevel({"a": 0, "b": 1}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    torch.manual_seed(0)
    trainer = SFTTrainer(
        model=MODEL.build(),
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": [[0, 0]], "labels": [[0, 0]]}),
    )
    trainer.train_dataset = MixtureDataset(open_chats(sets), args)
    return trainer


def add_callback(sets: Path, trainer: Any, scheduler: Scheduler, probe: Probe) -> MixtureCallback:
    callback = MixtureCallback(
        trainer,
        open_dialogues(sets),
        scheduler,
        sampling=Sampling(seed=SEED),
        interval=STEPS // 2,
        probe=probe,
    )
    trainer.add_callback(callback)
    return callback


def largest_error(sets: Path, trainer: Any) -> float:
    """Deviation of the last update's alignments from float64, relative to |g_i||v|. Collective."""
    domains = open_chats(sets)
    draws = ProbeSequenceSampler(domains, open_dialogues(sets), probe=PROBE, seed=SEED)
    reference = reference_of(trainer.model_wrapped, MODEL)
    update = [entry for entry in trainer.state.log_history if "mixture/alignments/d0" in entry][-1]
    assert update["step"] == STEPS  # nothing has been trained since
    drawn = draws.specific(1)
    v = reference.gradient(drawn.read(np.arange(len(drawn))))
    errors: list[float] = []
    padded = marked = 0
    for index, domain in enumerate(domains):
        measured = draws.measured(1, index)
        tokens = measured.read(np.arange(len(measured)))
        padded, marked = padded + (tokens == -100).sum(), marked + (tokens < -100).sum()
        g = reference.gradient(tokens)
        off = update[f"mixture/alignments/{domain.name}"] - float(g @ v)
        errors.append(abs(off) / float(g.norm() * v.norm()))
    assert padded
    assert marked
    return max(errors)


def labels_are_the_trained_tokens(sets: Path) -> bool:
    dialogues = open_dialogues(sets)
    tokens = dialogues.windows(np.arange(dialogues.num_sequences))
    rows = SequenceDataset(dialogues).__getitems__(range(len(tokens)))
    inputs = np.stack([row["input_ids"] for row in rows])
    labels = np.stack([row["labels"] for row in rows])
    counts = (labels[:, 1:] != -100).sum(axis=1)
    return bool(
        np.array_equal(labels >= 0, tokens >= 0)
        and np.array_equal(inputs[labels >= 0], labels[labels >= 0])
        and inputs.min() >= 0
        and np.array_equal(counts, dialogues.num_targets(np.arange(len(tokens))))
    )


def train(sets: Path, output: Path, kind: str, scheduler: Scheduler) -> dict[str, Any]:
    trainer = build_trainer(sets, output, kind)
    add_callback(sets, trainer, scheduler, PROBE)
    trainer.train()
    probing = scheduler.observes is not None
    found = {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "parameters": fingerprint(full_parameters(trainer.model_wrapped)),
        "error": largest_error(sets, trainer) if probing else None,
    }
    trainer.model_wrapped.destroy()
    return found


def refusals(sets: Path, output: Path, kind: str) -> dict[str, str]:
    def refused(probe: Probe, **more: Any) -> str:
        try:
            add_callback(sets, build_trainer(sets, output, kind, **more), FrozenProbing(3), probe)
        except MegadgaError as error:
            return str(error)
        return ""

    return {
        "in flight": refused(InFlight(**SIZES)),
        "padding_free": refused(PROBE, padding_free=True, max_length=None),
    }


def main(output: str, sets: str, kind: str) -> None:
    root, folder = Path(sets), Path(output).with_suffix("")
    found: dict[str, Any] = {
        "static": train(root, folder, kind, Static(uniform_weights(3))),
        "frozen": train(root, folder, kind, FrozenProbing(3)),
        "labels": labels_are_the_trained_tokens(root),
    }
    if kind == "2":
        found["refusals"] = refusals(root, folder, kind)
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(found))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
