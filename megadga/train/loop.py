"""The training loop, whole. Knows the order of things and none of the things."""

from dataclasses import dataclass

from megadga.plugin import DgaPlugin, Plugin
from megadga.train.checkpoints import Checkpoints
from megadga.train.metrics import MetricSink
from megadga.train.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """Everything that a training run consists of, ready to go.

    Attributes:
        mixture: Hands out batches.
        trainer: Completes an optimizer step with one.
        plugins: Called after every step, in this order; the mixture is one of them.
        metrics: Takes what the steps and the plugins report.
        checkpoints: Written in between.
        total_steps: Optimizer steps of the whole run.
    """

    mixture: DgaPlugin
    trainer: Trainer
    plugins: tuple[Plugin, ...]
    metrics: MetricSink
    checkpoints: Checkpoints
    total_steps: int


def train(run: Run) -> None:
    """Train until ``run.total_steps`` optimizer steps are completed. Collective."""
    while run.mixture.step < run.total_steps:
        batch = run.mixture.next_batch()
        metrics = run.trainer.step(batch)
        for plugin in run.plugins:
            metrics |= plugin.after_step(batch.step)
        run.metrics.log(batch.step, metrics)
        if run.checkpoints.due(batch.step):
            run.checkpoints.save(batch.step)
