"""The training loop."""

from dataclasses import dataclass
from typing import Protocol

from megadga.plugin import Batch, Metrics, MixturePlugin, Plugin
from megadga.train.checkpoints import Checkpoints
from megadga.train.evaluation import Evaluation
from megadga.train.metrics import MetricSink
from megadga.train.nonfinite import NonFiniteSteps
from megadga.train.ranks import CollectiveStop
from megadga.train.requests import MixtureRequests
from megadga.train.step import Trainer


class Markers(Protocol):
    """Records how a run ended, for launchers."""

    def end(self, step: int, *, finished: bool) -> None:
        """Record that the run finished, or was stopped and saved, after step ``step``."""
        ...


@dataclass(frozen=True)
class Run:
    """The components of a training run.

    Attributes:
        mixture: Provides batches.
        trainer: Executes an optimizer step on a batch.
        plugins: Called after every step, in this order; includes the mixture.
        metrics: Receives the records of steps and plugins.
        checkpoints: Writes and prunes checkpoints.
        non_finite: Detects non-finite losses and gradients, and ends a diverged run.
        requests: Applies requests to the mixture between steps.
        stop: Queried after every step for a request to stop.
        markers: Records how the run ended.
        total_steps: Optimizer steps of the whole run.
    """

    mixture: MixturePlugin
    trainer: Trainer
    plugins: tuple[Plugin, ...]
    metrics: MetricSink
    checkpoints: Checkpoints
    non_finite: NonFiniteSteps
    requests: MixtureRequests
    stop: CollectiveStop
    markers: Markers
    total_steps: int


def evaluate(run: Run) -> Metrics:
    """Evaluate a run's current model without training. Collective.

    Returns:
        An ``evaluation`` record, empty if the run has no sets to evaluate.
    """
    measured = [each.measure() for each in run.plugins if isinstance(each, Evaluation)]
    run.markers.end(run.mixture.step, finished=run.mixture.step >= run.total_steps)
    return measured[0] if measured else {}


def train(run: Run) -> bool:
    """Train until ``run.total_steps`` optimizer steps are completed or a stop is requested.

    Collective. Non-finite models are not saved, so the newest checkpoint is always of a finite
    one.

    Returns:
        Whether the run is finished; False: it was stopped and has saved.

    Raises:
        DivergedError: If too many consecutive steps, or the last one, were not finite.
    """
    while run.mixture.step < run.total_steps:
        batch = run.mixture.next_batch()
        metrics = run.trainer.step(batch)
        for plugin in run.plugins:
            metrics |= plugin.after_step(batch.step)
        run.metrics.log(batch.step, metrics)
        for applied in run.requests.after_step(batch.step):
            run.metrics.log(batch.step, applied)
        if event := run.non_finite.after_step(batch.step, metrics["train"]):
            run.metrics.log(batch.step, event)
        else:
            run.checkpoints.prune()  # a finite step after the newest checkpoint: it is usable
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
    """Write the checkpoint after a batch's step if the model is finite. Collective."""
    if run.non_finite.is_finite_model(batch):
        run.checkpoints.save(batch.step)
    else:
        run.metrics.log(batch.step, run.non_finite.skipped_checkpoint())
