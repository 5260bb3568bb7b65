"""Trains a small model of ``transformers`` in its ``Trainer``, and in a loop by hand."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainingArguments

from megadga.errors import MegadgaError
from megadga.mixers.base import Scheduler
from megadga.mixers.dga import Dga
from megadga.mixers.odm import Odm
from megadga.mixers.probing import Directional, InFlight, Probe
from megadga.mixers.static import Static, uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.plugin.trainer import MixtureCallback, MixtureDataset, SequenceDataset
from megadga.probes.loss import causal_lm_loss
from megadga.train.ranks import destroy_process_group
from tests.support.engines import build_engine, fingerprint, full_parameters, settings
from tests.support.probed_models import hf_llama
from tests.support.schedulers import FrozenProbing
from tests.support.shards import open_sets

STEPS, SAVED = 6, 3
"""The checkpoint is between two updates."""
SIZES: dict[str, Any] = {"sequences_per_domain": 2, "specific_sequences": 3}
IN_FLIGHT = InFlight(**SIZES, refresh_every=2)
DIRECTIONAL = Directional(**SIZES)
FROZEN: dict[str, Probe] = {"2": DIRECTIONAL, "3-released": IN_FLIGHT}
INTERVAL = 2


def moving() -> Dga:
    return Dga(uniform_weights(3), step_size=0.3, ema=0.5)


@dataclass(frozen=True)
class Runs:
    """What all runs of a stage share.

    Attributes:
        sets: Folder of ``write_sets``.
        output: Folder for checkpoints.
        kind: Of ``zero_settings``.
    """

    sets: Path
    output: Path
    kind: str

    def arguments(self, name: str, **more: Any) -> TrainingArguments:
        options: dict[str, Any] = {
            "output_dir": str(self.output / name),
            "deepspeed": settings(self.kind, "fp32"),
            "max_steps": STEPS,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_grad_norm": 0.1,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_steps": SAVED,
            "eval_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return TrainingArguments(**(options | more))

    def trainer(self, name: str, **more: Any) -> Trainer:
        domains, _ = open_sets(self.sets)
        _, validation = open_sets(self.sets, split="valid")
        args = self.arguments(name, **more)
        torch.manual_seed(0)
        return Trainer(
            model=hf_llama(longer=1),
            args=args,
            train_dataset=MixtureDataset(domains, args),
            eval_dataset=SequenceDataset(validation),
        )

    def callback(
        self, trainer: Trainer, scheduler: Scheduler, probe: Probe, **more: Any
    ) -> MixtureCallback:
        _, specific = open_sets(self.sets)
        return MixtureCallback(
            trainer,
            specific,
            scheduler,
            sampling=Sampling(seed=5),
            interval=INTERVAL,
            probe=probe,
            **more,
        )

    def train(
        self,
        name: str,
        scheduler: Scheduler,
        probe: Probe,
        *,
        resume: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        trainer = self.trainer(name, **more)
        callback = self.callback(trainer, scheduler, probe, general="eval_loss")
        trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=resume)
        engine: Any = trainer.model_wrapped
        history = trainer.state.log_history
        assert callback.plugin is not None
        found = {
            "losses": [entry["loss"] for entry in history if "loss" in entry],
            "evaluated": [entry["eval_loss"] for entry in history if "eval_loss" in entry],
            "updates": [
                {key: value for key, value in entry.items() if "alignments/" in key}
                for entry in history
                if "mixture/weights/d0" in entry
            ],
            "logged_at": [entry["step"] for entry in history if "mixture/weights/d0" in entry],
            "weights": callback.plugin.weights.tolist(),
            "general": callback.plugin.state_dict()["general_loss"],
            "parameters": fingerprint(full_parameters(engine)),
        }
        engine.destroy()
        return found

    def by_hand(self) -> dict[str, Any]:
        """Train as ``moving`` in flight, in a loop without a Trainer."""
        domains, specific = open_sets(self.sets)
        engine = build_engine(lambda: hf_llama(longer=1), settings(self.kind, "fp32"))
        plugin = MixturePlugin(
            engine,
            domains,
            specific,
            moving(),
            sampling=Sampling(seed=5),
            interval=INTERVAL,
            probe=IN_FLIGHT,
            loss=causal_lm_loss,
        )
        updates: list[dict[str, float]] = []
        for step in range(1, STEPS + 1):
            for tokens in plugin.next_batch().tokens:
                engine.backward(engine(input_ids=tokens, labels=tokens).loss)
                engine.step()
            if update := plugin.after_step(step).get("update"):
                dots = update["alignments"].items()
                updates.append({f"mixture/alignments/{name}": value for name, value in dots})
        found = {
            "updates": updates,
            "weights": plugin.weights.tolist(),
            "parameters": fingerprint(full_parameters(engine)),
        }
        engine.destroy()
        return found

    def refusal(self, scheduler: Scheduler, probe: Probe, **more: Any) -> str:
        """Return how a Trainer with such arguments is refused."""
        return refused(lambda: self.callback(self.trainer("refused", **more), scheduler, probe))

    def refusals(self) -> dict[str, str]:
        def other_loss(**given: Any) -> str:
            trainer = self.trainer("refused")
            trainer.compute_loss_func = lambda *_, **__: torch.zeros(())
            return refused(lambda: self.callback(trainer, moving(), IN_FLIGHT, **given))

        def collated(collator: Any) -> str:
            trainer = self.trainer("refused", save_strategy="no")
            trainer.data_collator = collator
            trainer.add_callback(self.callback(trainer, moving(), DIRECTIONAL))
            return refused(trainer.train)

        def of_model(loss_function: Any) -> str:
            trainer = self.trainer("refused", save_strategy="no")
            model: Any = trainer.model
            model.loss_function = loss_function
            trainer.add_callback(self.callback(trainer, moving(), DIRECTIONAL))
            return refused(trainer.train)

        def resumed(folder: str, **more: Any) -> str:
            trainer = self.trainer("elsewhere", **more)
            trainer.add_callback(self.callback(trainer, moving(), IN_FLIGHT))
            return refused(lambda: trainer.train(resume_from_checkpoint=folder))

        def without_callback() -> str:
            return refused(self.trainer("refused", save_strategy="no").train)

        def without_dataset() -> str:
            trainer: Any = self.trainer("refused")
            trainer.train_dataset = trainer.eval_dataset
            return refused(lambda: self.callback(trainer, moving(), DIRECTIONAL))

        accelerator = {"split_batches": True, "dispatch_batches": True}
        return {
            "arguments": self.refusal(
                moving(),
                DIRECTIONAL,
                max_steps=-1,
                dataloader_num_workers=2,
                train_sampling_strategy="group_by_length",
                logging_strategy="epoch",
                accelerator_config=accelerator,
                enable_jit_checkpoint=True,
                label_smoothing_factor=0.1,
            ),
            "losses": self.refusal(Odm(uniform_weights(3)), DIRECTIONAL),
            "in flight": self.refusal(moving(), IN_FLIGHT, use_liger_kernel=True),
            "compute_loss_func": other_loss(),
            "compute_loss_func and loss": other_loss(loss=lambda *_: torch.zeros(())),
            "another loss": of_model(lambda logits, labels, **_: logits.square().mean()),
            "collator": collated(lambda rows: {"input_ids": torch.zeros(1), "labels": None}),
            "dataset": without_dataset(),
            "callback": without_callback(),
            "resume elsewhere": resumed(str(self.output / "moving" / f"checkpoint-{SAVED}")),
            "resume another": resumed(
                str(self.output / "moving" / f"checkpoint-{SAVED}"),
                resume_from_checkpoint=str(self.output / "frozen" / f"checkpoint-{SAVED}"),
            ),
        }


def refused(act: Callable[[], object]) -> str:
    try:
        act()
    except MegadgaError as error:
        return str(error)
    return ""


def without_deepspeed(runs: Runs) -> str:
    """Return how a Trainer without DeepSpeed is refused; after all that are with it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.pop("ACCELERATE_USE_DEEPSPEED")
    return runs.refusal(moving(), DIRECTIONAL, deepspeed=None)


def main(output: str, sets: str, kind: str) -> None:
    runs = Runs(Path(sets), Path(output).with_suffix(""), kind)
    frozen = FROZEN[kind]
    found: dict[str, Any] = {
        "static": runs.train("static", Static(uniform_weights(3)), frozen),
        "frozen": runs.train("frozen", FrozenProbing(3), frozen),
        "moving": runs.train("moving", moving(), IN_FLIGHT),
        "resumed": runs.train(
            "moving",
            moving(),
            IN_FLIGHT,
            resume=str(runs.output / "moving" / f"checkpoint-{SAVED}"),
            eval_strategy="steps",
        ),
        "by hand": runs.by_hand(),
    }
    if kind == "2":
        found["refusals"] = runs.refusals()
        found["refusals"]["deepspeed"] = without_deepspeed(runs)
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(found))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
