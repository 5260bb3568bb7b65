"""Trains a small decoder in one process, and measures every update along many directions."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import deepspeed
import numpy as np

from megadga.config.llama_shapes import LlamaShape
from megadga.data.domain import Domain
from megadga.mixers.dga import Dga
from megadga.mixers.probing import Directional, LowRank, LowRankEnergy
from megadga.mixers.static import uniform_weights
from megadga.model.llama import Llama
from megadga.plugin import Metrics, MixturePlugin, Sampling
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.sequences import ProbeSequenceSampler
from megadga.train.ranks import StepAllReduce
from megadga.train.trainer import Trainer
from trials.agreement import Update
from trials.directions import DirectionTrial, Kept, Measured

RANKS = (1, 2, 4, 8, 16, 32, 64)
ENERGIES = (0.9, 0.99)
LOW_RANKS = {
    **{f"rank {rank}": LowRank(rank=rank) for rank in RANKS},
    **{
        f"energy {energy}": LowRankEnergy(energy=energy, max_rank=max(RANKS))
        for energy in ENERGIES
    },
}
AGES = (0, 1, 2, 5, 10, 20, 50)
_HEAD_WIDTH = 64
_ROUNDING = 1e-5  # of |g_i||v| in float32, with a wide margin: 3e-7 is what is found


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        steps: Optimizer steps.
        interval: Steps between updates.
        width: Features of the decoder, a multiple of 64.
        layers: Its blocks.
        sequence_length: Targets of a sequence.
        batch: Sequences of an optimizer step.
        probe: How alignments are measured for updates.
        step_size: eta of the raw score.
        ema: beta.
        learning_rate: After a warm-up of a twentieth of the steps, and before a cosine to a tenth.
        seed: Of everything.
    """

    steps: int
    interval: int
    width: int
    layers: int
    sequence_length: int
    batch: int
    probe: Directional
    step_size: float
    ema: float
    learning_rate: float
    seed: int

    def scheduler(self, num_domains: int) -> Dga:
        """Return the rule that moves the mixture."""
        return Dga(uniform_weights(num_domains), step_size=self.step_size, ema=self.ema)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run has shown at each of its updates.

    Attributes:
        names: The domains, ``K`` of them.
        updates: The alignments.
        kept: What the low-rank directions held, by name.
        losses: Mean training loss of the steps since the update before, in nats per token.
    """

    names: tuple[str, ...]
    updates: list[Update]
    kept: list[dict[str, Kept]]
    losses: list[float]


def train(
    recipe: Recipe,
    domains: Sequence[Domain],
    specific: Domain,
    report: Callable[[int, float], None],
) -> Trained:
    """Train with the whole specific gradient, and compare the others with it.

    An interrupt (Ctrl-C) ends the run early; what was measured until then is returned.

    Args:
        recipe: The run.
        domains: What it is trained on.
        specific: What the mixture aligns to.
        report: Told the step and its loss.
    """
    engine = _engine(recipe, domains[0].tokenizer.vocab_size)
    scheduler = recipe.scheduler(len(domains))
    plugin = MixturePlugin(
        engine,
        domains,
        specific,
        scheduler,
        sampling=Sampling(seed=recipe.seed),
        interval=recipe.interval,
        probe=recipe.probe,
    )
    trial = DirectionTrial(
        engine,
        ProbeSequenceSampler(domains, specific, probe=recipe.probe, seed=recipe.seed),
        ProbeSequenceSampler(domains, specific, probe=recipe.probe, seed=recipe.seed + 1),
        low_ranks=LOW_RANKS,
        ages=AGES,
        interval=recipe.interval,
    )
    collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
    step_sum = StepAllReduce(collective)
    trainer = Trainer(engine, plugin.names, step_sum=step_sum, clock=time.perf_counter)
    trained = Trained(plugin.names, [], [], [])
    recent: list[float] = []
    with suppress(KeyboardInterrupt):
        for step in range(1, recipe.steps + 1):
            loss = float(trainer.step(plugin.next_batch())["train"]["loss"])
            recent.append(loss)
            measured = trial.after_step(step)
            metrics = plugin.after_step(step)
            if measured is not None:
                trained.updates.append(_update(step, measured, metrics))
                trained.kept.append(dict(measured.kept))
                trained.losses.append(float(np.mean(recent)))
                recent.clear()
            report(step, loss)
    plugin.close()
    return trained


def _update(step: int, measured: Measured, metrics: Metrics) -> Update:
    """Take the plugin's word for the reference, and hold ours against it."""
    found = metrics["update"]
    reference = np.array(list(found["alignments"].values()))
    deviation = float(np.abs(measured.full - reference).max()) / measured.scale
    if not deviation <= _ROUNDING:
        raise SystemExit(
            f"step {step}: expected products of gradients to be what the probe measured within "
            f"{_ROUNDING} of |g||v|, found {deviation:.3g}"
        )
    errors = np.array(list(found["standard_errors"].values()))
    return Update(step, reference, errors, measured.others)


def _engine(recipe: Recipe, vocabulary_size: int) -> Any:
    heads = max(1, recipe.width // _HEAD_WIDTH)
    shape = LlamaShape(
        num_layers=recipe.layers,
        hidden_size=recipe.width,
        num_heads=heads,
        num_kv_heads=heads,
        intermediate_size=3 * recipe.width,
        tied_embeddings=True,
    )
    model = Llama(
        shape,
        vocabulary_size=vocabulary_size,
        sequence_length=recipe.sequence_length,
        seed=recipe.seed,
    )
    adam = {"torch_adam": True, "lr": recipe.learning_rate, "betas": [0.9, 0.95], "eps": 1e-8,
            "weight_decay": 0.1}  # fmt: skip
    schedule = {"total_num_steps": recipe.steps, "warmup_num_steps": max(1, recipe.steps // 20),
                "cos_min_ratio": 0.1}  # fmt: skip
    settings = {
        "train_batch_size": recipe.batch,
        "train_micro_batch_size_per_gpu": min(recipe.batch, 16),
        "zero_optimization": {"stage": 2},
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": adam},
        "scheduler": {"type": "WarmupCosineLR", "params": schedule},
    }
    untyped: Any = deepspeed  # its annotations refuse what its docstrings ask for
    engine, *_ = untyped.initialize(
        model=model, model_parameters=list(model.parameters()), config=settings
    )
    return engine
