"""The training loop, whole."""

from dataclasses import dataclass
from typing import Protocol

from megadga.plugin import Batch, Metrics, MixturePlugin, Plugin
from megadga.train.checkpoints import Checkpoints
from megadga.train.evaluation import Evaluation
from megadga.train.metrics import MetricSink
from megadga.train.nonfinite import NonFiniteSteps
from megadga.train.ranks import CollectiveStop
from megadga.train.step import Trainer


class Markers(Protocol):
    """Tells whoever starts runs how this one ended."""

    def end(self, step: int, *, finished: bool) -> None:
        """Say that the run is finished, or else stopped and saved, after step ``step``."""
        ...


@dataclass(frozen=True)
class Run:
    """Everything that a training run consists of, ready to go.

    Attributes:
        mixture: Hands out batches.
        trainer: Completes an optimizer step with one.
        plugins: Called after every step, in this order; the mixture is one of them.
        metrics: Takes what the steps and the plugins report.
        checkpoints: Written in between.
        non_finite: Told of every step; ends a run that has lost its numbers.
        stop: Asked after every step whether it is to be the last one for now.
        markers: Told how the run ended.
        total_steps: Optimizer steps of the whole run.
    """

    mixture: MixturePlugin
    trainer: Trainer
    plugins: tuple[Plugin, ...]
    metrics: MetricSink
    checkpoints: Checkpoints
    non_finite: NonFiniteSteps
    stop: CollectiveStop
    markers: Markers
    total_steps: int


def evaluate(run: Run) -> Metrics:
    """Evaluate a run as it stands; train nothing.

    Returns:
        An ``evaluation`` record, or nothing if the run has no sets to evaluate. Collective.
    """
    measured = [each.measure() for each in run.plugins if isinstance(each, Evaluation)]
    run.markers.end(run.mixture.step, finished=run.mixture.step >= run.total_steps)
    return measured[0] if measured else {}


def train(run: Run) -> bool:
    """Train until ``run.total_steps`` optimizer steps are completed, or the run is stopped.

    Nothing is saved of a model that is not finite: the last checkpoint that is stays the newest.

    Returns:
        Whether the run is finished; False: it was stopped and has saved. Collective.

    Raises:
        DivergedError: If too many steps in a row, or the last one, were not finite.
    """
    while run.mixture.step < run.total_steps:
        batch = run.mixture.next_batch()
        metrics = run.trainer.step(batch)
        for plugin in run.plugins:
            metrics |= plugin.after_step(batch.step)
        run.metrics.log(batch.step, metrics)
        if event := run.non_finite.after_step(batch.step, metrics["train"]):
            run.metrics.log(batch.step, event)
        else:
            run.checkpoints.prune()  # the newest one is of a model that has trained on
        run.non_finite.check()
        stopping = run.stop.agreed()
        if stopping or run.checkpoints.due(batch.step):
            _save(run, batch)
        if stopping:
            break
    finished = run.mixture.step >= run.total_steps
    if finished:
        run.non_finite.check_end()
        run.checkpoints.prune()
    run.markers.end(run.mixture.step, finished=finished)
    return finished


def _save(run: Run, batch: Batch) -> None:
    """Write the checkpoint of a batch's step, if the model can be gone on with. Collective."""
    if run.non_finite.is_finite_model(batch):
        run.checkpoints.save(batch.step)
    else:
        run.metrics.log(batch.step, run.non_finite.skipped_checkpoint())
