"""The training loop."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from megadga.plugin import Batch, Metrics, MixturePlugin, Plugin
from megadga.run_folder.stalls import StallWatch
from megadga.train.agreement import ParameterAgreement
from megadga.train.checkpoints import Checkpoints
from megadga.train.collective_metrics import CollectiveMetrics
from megadga.train.evaluation import Evaluation
from megadga.train.live import DataInForce, DataReviser, LiveRevisions
from megadga.train.monitors.sink import Monitors
from megadga.train.nonfinite import NonFiniteSteps
from megadga.train.progress import Progress
from megadga.train.ranks import CollectiveStop
from megadga.train.requests import MixtureRequests
from megadga.train.responses import SpikeResponse
from megadga.train.spikes import LossSpikes
from megadga.train.storage import Storage
from megadga.train.timing import StepTimes
from megadga.train.trainer import StepTrainer


class Markers(Protocol):
    """Records how a run ended, for launchers."""

    def end(self, step: int, *, finished: bool) -> None:
        """Record that the run finished, or was stopped and saved, after step ``step``."""
        ...


@dataclass
class Run:
    """The components of a training run.

    The mixture and the plugins are others after a revision of the data.

    Attributes:
        mixture: Provides batches.
        trainer: Executes an optimizer step on a batch.
        plugins: Called after every step, in this order; includes the mixture.
        metrics: Receives the records of steps and plugins.
        checkpoints: Writes and prunes checkpoints.
        storage: The run's file system, which the run may have paused for.
        non_finite: Detects non-finite losses and gradients, and ends a diverged run.
        spikes: Decides which updates are applied, and what follows a loss spike.
        parameters: Compares the ranks' parameters before a checkpoint; None: nothing does.
        stalls: Watches this rank's progress.
        progress: Shows how far the run has come, on rank 0.
        requests: Applies requests to the mixture between steps.
        stop: Queried after every step for a request to stop.
        markers: Records how the run ended.
        total_steps: Optimizer steps of the whole run.
        revisions: Revises the data at updates of the mixture; None: they stay.
        reviser: Has the data in force, for ``revisions``.
        times: Divides this rank's time in each step.
        monitors: What else is written to; on ranks that do not log, nothing.
    """

    mixture: MixturePlugin
    trainer: StepTrainer
    plugins: tuple[Plugin, ...]
    metrics: CollectiveMetrics
    checkpoints: Checkpoints
    storage: Storage
    non_finite: NonFiniteSteps
    spikes: SpikeResponse
    parameters: ParameterAgreement | None
    stalls: StallWatch
    progress: Progress
    requests: MixtureRequests
    stop: CollectiveStop
    markers: Markers
    total_steps: int
    revisions: LiveRevisions | None = None
    reviser: DataReviser | None = None
    times: StepTimes = field(default_factory=StepTimes)
    monitors: Monitors = field(default_factory=lambda: Monitors(()))

    def adopt(self, data: DataInForce) -> None:
        """Go on with other data, on every rank."""
        self.mixture, self.plugins = data.plugin, data.plugins
        for each in data.plugins:
            if isinstance(each, LossSpikes):
                each.revise(data.plugin.names)
        self.trainer.revise(data.plugin.names, data.plugin.observe_losses)
        self.checkpoints.revise(data.content)


def evaluate(run: Run) -> Metrics:
    """Evaluate a run's current model without training. Collective.

    Returns:
        An ``evaluation`` record, empty if the run has no sets to evaluate.
    """
    run.stalls.enter(run.mixture.step, "evaluation")
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
        TrainingError: If too many consecutive steps, or the last one, were not finite, ranks
            differ, or a loss spike is to end the run.
    """
    while run.mixture.step < run.total_steps:
        run.stalls.enter(run.mixture.step + 1, "reading the batch")
        run.times.begin(run.mixture.probed_s)
        batch = run.mixture.next_batch()
        run.times.lap("data", run.mixture.probed_s)
        run.stalls.enter(batch.step, "forward and backward passes")
        with run.non_finite.at_lowest_scale(batch.step):
            metrics = run.trainer.step(batch)
        run.times.lap("training", run.mixture.probed_s)
        events = _after_step(run, batch.step, metrics)
        metrics["train"] |= run.times.record(metrics["train"])
        run.stalls.enter(batch.step, "metrics")
        run.metrics.log(batch.step, metrics)
        for event in events:
            run.metrics.log(batch.step, event)
        for applied in run.requests.after_step(batch.step):
            run.metrics.log(batch.step, applied)
        if revised := _revise(run, batch.step):
            run.metrics.log(batch.step, revised)
        if _respond(run, batch, metrics["train"]):
            run.requests.resume()
            continue  # with the step after the checkpoint that it has gone back to
        run.non_finite.check()
        run.metrics.settle()
        run.checkpoints.poll()
        stopping = run.stop.agreed()
        if stopping or run.checkpoints.due(batch.step):
            _save(run, batch, metrics)
        _log_writing(run)
        if stopping:
            break
    run.checkpoints.finish()
    finished = run.mixture.step >= run.total_steps
    if finished:
        run.non_finite.check_end()
        run.checkpoints.prune()
    _log_writing(run)
    run.markers.end(run.mixture.step, finished=finished)
    return finished


def _after_step(run: Run, step: int, metrics: Metrics) -> list[Metrics]:
    """Call the plugins, and add their records; return events, of which a step may have several.

    Collective.
    """
    events: list[Metrics] = []
    for plugin in run.plugins:
        run.stalls.enter(step, plugin.name)
        found = plugin.after_step(step)
        run.times.lap(plugin.name if found else "plugins", run.mixture.probed_s)
        if "event" in found:
            events.append({"event": found.pop("event")})
        metrics |= found
    return events


def _revise(run: Run, step: int) -> Metrics:
    """Revise the data if that is due, and go on with those in force then. Collective."""
    if run.revisions is None:
        return {}
    assert run.reviser is not None
    before = run.reviser.current
    revised = run.revisions.after_step(step)
    if run.reviser.current is not before:
        run.adopt(run.reviser.current)
    return revised


def _respond(run: Run, batch: Batch, train: dict[str, Any]) -> bool:
    """Judge a step; return whether the run has gone back to a checkpoint. Collective."""
    event: Metrics = {}
    if run.spikes.applied:
        event = run.non_finite.after_step(batch.step, train)
    if event:
        run.metrics.log(batch.step, event)
    elif run.spikes.applied:
        run.checkpoints.prune()  # a finite step after the newest checkpoint: it is usable
    return run.spikes.after_step(batch.step, train, finite=run.non_finite.was_finite)


def _save(run: Run, batch: Batch, metrics: Metrics) -> None:
    """Write the checkpoint after a batch's step if the model is finite. Collective."""
    run.stalls.enter(batch.step, "writing the checkpoint")
    if run.parameters is not None:
        run.parameters.check(batch.step)
    if run.non_finite.is_finite_model(batch):
        run.checkpoints.save(batch.step, metrics.get("evaluation"))
    else:
        run.metrics.log(batch.step, run.non_finite.skipped_checkpoint())


def _log_writing(run: Run) -> None:
    """Log what happened since the last call: checkpoints, pauses, monitors that have failed."""
    for written in run.checkpoints.take_written():
        run.metrics.log(written.step, {"checkpoint": written.record()})
    for event in (*run.storage.take_events(), *run.monitors.take_events()):
        run.metrics.log(run.mixture.step, {"event": event})
