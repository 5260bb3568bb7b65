"""Assembles a run that is ready to train from its configuration.

Configuration, ranks ──▶ ``RunStart`` ──▶ ``_Restored`` ──▶ ``Run``: what the run starts from; its
model, data and folder, as they were at the checkpoint; and what trains, watches and shows it.
"""

import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from megadga.config.changes import find_changes
from megadga.config.run import RunConfig
from megadga.console import print_stderr
from megadga.launch.operators import SHARED_MEMORY, missing_ops, needed_ops, wait_for_ops
from megadga.launch.ranks import rank_for_messages, read_deadline_s
from megadga.plugin import Metrics, MixturePlugin, Plugin
from megadga.plugin.sampling import SamplerRecords
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import limit_waiting, lowest_loss_scale
from megadga.probes.state import token_losses
from megadga.report.history import START
from megadga.run_folder import METRICS_FILE
from megadga.run_folder.checkpoints import CHECKPOINTS
from megadga.run_folder.domain_log import WINDOWS
from megadga.run_folder.lock import RunLock
from megadga.run_folder.markers import RunFinishedError, RunMarkers, finished_step
from megadga.run_folder.requests import RequestFolder
from megadga.run_folder.stalls import StallWatch
from megadga.train.agreement import ParameterAgreement, StepAgreement
from megadga.train.checkpoints import Checkpoints
from megadga.train.collective_metrics import CollectiveMetrics
from megadga.train.components import (
    batch_layout,
    checkpoint_plan,
    make_advisor,
    make_monitors,
    make_plugins,
    make_progress,
    make_trainer,
    utilization,
    waiting_of,
)
from megadga.train.engine import make_engine
from megadga.train.live import DataInForce, DataReviser, LiveRevisions
from megadga.train.loop import Run
from megadga.train.monitors.sink import Monitors
from megadga.train.nonfinite import NonFiniteSteps
from megadga.train.opening import open_with_rule
from megadga.train.output import CollectiveMarkers, RunLogs, open_logs, open_output
from megadga.train.paths import check_output
from megadga.train.progress import Progress
from megadga.train.ranks import (
    CollectiveStop,
    Ranks,
    StepAllReduce,
    on_first_rank,
    process_group,
)
from megadga.train.requests import MixtureRequests
from megadga.train.responses import CheckpointReturns, SpikeResponse
from megadga.train.restoring import ResumableEngine
from megadga.train.revised import revised_loaders
from megadga.train.revision_files import RevisionWatch, with_recorded_data
from megadga.train.start import (
    ResumeRequest,
    RunStart,
    agreed_identity,
    check_same_everywhere,
    find_start,
)
from megadga.train.storage import Storage
from megadga.train.timing import StepTimes
from megadga.train.tracing import trace_trainer
from megadga.train.trainer import StepTrainer, Watching
from megadga.train.watching import SpikeWatch, watch_progress, watch_spikes


@contextmanager
def open_run(
    config: RunConfig,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    resume_from: str | None = None,
    allowed: Collection[str] = (),
    evaluate_only: bool = False,
) -> Generator[Run]:
    """Yield the run of a configuration, resumed from its checkpoint if there is one. Collective.

    Works under the launchers of DeepSpeed and torch, under MPI and SLURM, and as a single process.
    Everything is validated before anything is written. Only rank 0 reads the run's folder, but for
    the data of a revision, which are opened before ranks know each other, and checked afterwards.

    Args:
        config: The run.
        stop_requested: Whether this rank was asked to stop; called in every step.
        resume_from: Name of the checkpoint to resume from; None: the latest.
        allowed: Dotted keys that may differ from the checkpoint's, beyond those that always may.
        evaluate_only: Evaluate without training: the run may be finished, and must have a
            checkpoint.

    Raises:
        RunFinishedError: If the run is already finished and not ``evaluate_only``; on every rank,
            after the process group was destroyed.
        ConfigError: If the configuration is inconsistent with the shards, the ranks or DeepSpeed,
            or differs between ranks.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
        ResumeError: If the output folder holds a checkpoint of another run, or a damaged one, or
            ``allowed`` has keys that need not be allowed.
        LockedError: If another process trains in the output folder.
        UnsupportedEngineError: If alignments are not known to be exact under DeepSpeed's settings.
    """
    check_output(config)
    opened = open_with_rule(with_recorded_data(config, wanted=resume_from))
    _wait_for_operators(config)
    lock = RunLock(config.output, report=print_stderr)
    try:
        with process_group() as deadline:
            accelerator: Any = get_accelerator()
            ranks = ProcessGroupCollective(None, torch.device(accelerator.current_device_name()))
            check_same_everywhere(opened, ranks)
            finished = on_first_rank(ranks, lambda: finished_step(config))
            if finished is None or resume_from is not None or evaluate_only:
                finished = None
                wanted = ResumeRequest(resume_from, allowed, required=evaluate_only)
                start = find_start(
                    config, opened, wanted, lock=lock, ranks=ranks, report=print_stderr
                )
                restored = _restore(start, lock, ranks, stop_requested)
                run = _make_run(start, restored, ranks, stop_requested, trains=not evaluate_only)
                limit_waiting(deadline)  # also in the groups that DeepSpeed has created
                try:
                    yield run
                finally:
                    run.stalls.close()
                    run.progress.close()  # the terminal, before monitors that may take a minute
                    run.monitors.close()
                run.mixture.close()
    finally:
        lock.release()
    if finished is not None:
        raise RunFinishedError(finished)


def _wait_for_operators(config: RunConfig) -> None:
    accelerator: Any = get_accelerator()
    on_cpu = accelerator.device_name() == "cpu"
    names = (*needed_ops(config.deepspeed), *((SHARED_MEMORY,) if on_cpu else ()))
    wait_for_ops(
        names,
        os.environ,
        deadline_s=read_deadline_s(os.environ),
        tell=print_stderr,
    )
    if rank_for_messages(os.environ) == 0 and (missing := missing_ops(names, os.environ)):
        print_stderr(
            f"compiling {', '.join(missing)} of DeepSpeed's, which takes a minute or more, once"
        )


@final
@dataclass(frozen=True, eq=False)
class _Restored:
    """A run's model, data and folder, as they are at its start or were at the checkpoint.

    Attributes:
        engine: DeepSpeed's, around the model.
        collective: Its data-parallel ranks.
        spike_watch: What the run does about loss spikes.
        reviser: Has the data in force.
        revisions: Revises the data while the run trains; None: they stay.
        requests: Applies requests to the mixture.
        stalls: Watches this rank's progress.
        storage: The run's file system.
        logs: What its records are logged in.
        checkpoints: Its checkpoints.
    """

    engine: Any
    collective: ProcessGroupCollective
    spike_watch: SpikeWatch
    reviser: DataReviser
    revisions: LiveRevisions | None
    requests: MixtureRequests
    stalls: StallWatch
    storage: Storage
    logs: RunLogs
    checkpoints: Checkpoints

    @property
    def plugin(self) -> MixturePlugin:
        """The mixture over the data in force."""
        return self.reviser.current.plugin


def _restore(
    start: RunStart, lock: RunLock, ranks: Ranks, stop_requested: Callable[[], bool]
) -> _Restored:
    """Build the model and what is over the data, create the folder, then resume. Collective."""
    config = start.config
    engine = make_engine(config, start.settings, start.data, is_new=start.is_new)
    collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
    spike_watch = watch_spikes(start, engine, ranks)
    reviser = _make_reviser(start, engine, collective, spike_watch, ranks)
    revisions = _make_revisions(config, reviser, ranks)
    requests = MixtureRequests(RequestFolder(config.output), lambda: reviser.current.plugin, ranks)
    on_first_rank(ranks, lambda: open_output(start.given, lock, start.info, is_new=start.is_new))
    stalls = watch_progress(config, engine, ranks)
    storage = Storage(
        config.output,
        ranks=ranks,
        waiting=waiting_of(config),
        stop_requested=stop_requested,
        report=print_stderr,
        advance=stalls.advance,
    )
    logs = open_logs(config, start.mixture.updates, ranks)
    checkpoints = _make_checkpoints(config, engine, reviser, storage, logs, lock)
    checkpoints.resume(
        start.point, loaders=revised_loaders(reviser.current.plugin, start.revision)
    )
    requests.resume()
    return _Restored(
        engine,
        collective,
        spike_watch,
        reviser,
        revisions,
        requests,
        stalls,
        storage,
        logs,
        checkpoints,
    )


def _make_reviser(
    start: RunStart,
    engine: Any,
    collective: ProcessGroupCollective,
    spike_watch: SpikeWatch,
    ranks: Ranks,
) -> DataReviser:
    """Return what has the data in force, with the plugins over those that the run starts with."""
    build = partial(make_plugins, engine=engine, collective=collective, spikes=spike_watch.spikes)
    config, data, mixture, revision = start.config, start.data, start.mixture, start.revision
    plugins = build(config, data, mixture, None if revision is None else revision.order)
    current = DataInForce(
        config,
        data,
        mixture,
        plugins[0],
        plugins,
        files=start.files,
        identity=start.identity,
        number=0 if revision is None else revision.before.revision,
    )
    return DataReviser(
        current,
        ranks=ranks,
        build=build,
        identity=partial(agreed_identity, ranks=ranks, before=start.identity),
    )


def _make_revisions(config: RunConfig, reviser: DataReviser, ranks: Ranks) -> LiveRevisions | None:
    """Return what revises the data while the run trains, if it asks for it. Collective then."""
    if config.data.revisions is None:
        return None
    number = reviser.current.number
    watch = on_first_rank(ranks, lambda: RevisionWatch(config, number=number))
    return LiveRevisions(
        watch if ranks.rank == 0 else None,
        ranks=ranks,
        is_due=lambda step: (
            step < config.training.steps and reviser.current.plugin.may_be_revised(step)
        ),
        apply=reviser.apply,
        record=lambda: _sampler(reviser.current.plugins).record(),
        windows=lambda: reviser.current.plugin.windows_by_name,
    )


def _sampler(plugins: Sequence[Plugin]) -> SamplerRecords:
    return next(each for each in plugins if isinstance(each, SamplerRecords))


def _make_checkpoints(
    config: RunConfig,
    engine: Any,
    reviser: DataReviser,
    storage: Storage,
    logs: RunLogs,
    lock: RunLock,
) -> Checkpoints:
    """Return the run's checkpoints, each of which is preceded by checks on rank 0."""

    def check() -> Mapping[str, Any]:
        logs.sinks.check()
        lock.check()
        reviser.current.files.check()
        return reviser.current.files.stamps

    return Checkpoints(
        ResumableEngine(engine),
        config.output / CHECKPOINTS,
        plan=checkpoint_plan(config),
        content=reviser.current.content,
        metrics=logs.metrics,
        domain_log=logs.domain_log,
        storage=storage,
        watch=check,
    )


def _make_run(
    start: RunStart,
    restored: _Restored,
    ranks: Ranks,
    stop_requested: Callable[[], bool],
    *,
    trains: bool,
) -> Run:
    """Return the run: what trains, watches and shows it around what was restored. Collective.

    Its start is marked and logged. A run that does not train has no monitors and no trace.
    """
    config, engine, logs = start.config, restored.engine, restored.logs
    data = restored.reviser.current
    monitors, progress = _open_views(start, restored, ranks, trains=trains)
    metrics = CollectiveMetrics(logs.sinks, restored.storage, make_advisor(config, ranks))
    # A failure of a metric sink on rank 0 is signalled to all ranks as a request to stop.
    stop = CollectiveStop(lambda: stop_requested() or logs.sinks.failed)
    step_sum = _make_step_sum(restored, stop, metrics, ranks)
    returns, response = _make_response(start, restored, metrics, ranks)
    markers = _mark_start(start, restored, returns, ranks)
    return Run(
        mixture=data.plugin,
        trainer=_make_trainer(start, restored, step_sum, response, trains=trains),
        plugins=data.plugins,
        metrics=metrics,
        checkpoints=restored.checkpoints,
        storage=restored.storage,
        non_finite=_make_non_finite(config, restored),
        spikes=response,
        parameters=ParameterAgreement(ranks, engine) if config.watch.compare_parameters else None,
        stalls=restored.stalls,
        progress=progress,
        requests=restored.requests,
        stop=stop,
        markers=markers,
        total_steps=config.training.steps,
        revisions=restored.revisions,
        reviser=restored.reviser,
        times=StepTimes(utilization=utilization(config, start.data, engine.device, ranks)),
        monitors=monitors,
    )


def _open_views(
    start: RunStart, restored: _Restored, ranks: Ranks, *, trains: bool
) -> tuple[Monitors, Progress]:
    """Open what the run is seen in, and log to it from here on. Collective."""
    config, engine, logs = start.config, restored.engine, restored.logs
    monitors = make_monitors(
        config,
        restored.reviser,
        engine,
        logs.metrics if trains else None,
        start.info.groups,
        ranks,
    )
    progress = make_progress(config, restored.plugin, engine.device, ranks)
    if ranks.rank == 0:
        logs.sinks.add(progress, monitors)
    return monitors, progress


def _make_step_sum(
    restored: _Restored, stop: CollectiveStop, metrics: CollectiveMetrics, ranks: Ranks
) -> StepAllReduce:
    """Return the all-reduce of each step, with what the ranks tell each other in it."""
    revisions = restored.revisions
    return StepAllReduce(
        restored.collective,
        *(stop, restored.requests, metrics.waiting, restored.checkpoints.being_written),
        *(() if revisions is None else (revisions.flag,)),
        terms=(StepAgreement(ranks, lambda: restored.plugin.weights),),
    )


def _make_response(
    start: RunStart, restored: _Restored, metrics: CollectiveMetrics, ranks: Ranks
) -> tuple[CheckpointReturns, SpikeResponse]:
    """Return what goes back to checkpoints, and what follows from loss spikes."""
    config, checkpoints = start.config, restored.checkpoints
    returns = CheckpointReturns(
        config.output,
        restored.spike_watch.rewinds,
        checkpoints=checkpoints,
        folder=config.output / CHECKPOINTS,
        identity=start.identity,
        allowed=start.allowed,
        ranks=ranks,
        log=metrics.log,
    )
    response = SpikeResponse(
        config.watch.loss_spike,
        restored.spike_watch.spikes,
        returns=returns,
        newest=lambda: checkpoints.newest,
        log=metrics.log,
    )
    return returns, response


def _mark_start(
    start: RunStart, restored: _Restored, returns: CheckpointReturns, ranks: Ranks
) -> CollectiveMarkers:
    """Mark and log that the run starts or goes on; return what marks its end. Collective."""
    sinks, plugin = restored.logs.sinks, restored.plugin
    markers = CollectiveMarkers(
        RunMarkers(start.config, writes=ranks.rank == 0), restored.storage, before_end=sinks.check
    )
    markers.start()
    for record in _first_records(start, restored.reviser.current.plugins):
        sinks.log(plugin.step, record)
    returns.log_left_out(plugin.step)
    return markers


def _make_trainer(
    start: RunStart,
    restored: _Restored,
    step_sum: StepAllReduce,
    response: SpikeResponse,
    *,
    trains: bool,
) -> StepTrainer:
    """Return what executes the run's steps, and traces them if it is to. Collective."""
    config, data, mixture, plugin = start.config, start.data, start.mixture, restored.plugin
    engine, collective = restored.engine, restored.collective
    accepts = response.accepts if restored.spike_watch.drops_updates else None
    watching = Watching(restored.spike_watch.spikes, accepts)
    return trace_trainer(
        make_trainer(config, data, plugin, engine, step_sum, collective, watching),
        config,
        engine,
        collective,
        batch_layout(config, data, mixture, engine, collective),
        domains=plugin.names,
        completed=start.completed if trains else None,
        report=print_stderr,
    )


def _make_non_finite(config: RunConfig, restored: _Restored) -> NonFiniteSteps:
    """Return what finds losses and gradients that are not finite."""
    engine = restored.engine
    return NonFiniteSteps(
        config.training.non_finite_limit,
        losses=token_losses(engine, engine.module),
        ranks=restored.collective,
        latest=restored.checkpoints.finish,
        lowest_scale=lowest_loss_scale(engine),
    )


def _first_records(start: RunStart, plugins: Sequence[Plugin]) -> Iterator[Metrics]:
    """Yield the records of a start or a resume; prints on rank 0 what has changed since."""
    mixture, is_first = plugins[0], dist.get_rank() == 0
    assert isinstance(mixture, MixturePlugin)
    if mixture.step == 0:
        first = {"event": START, **mixture.initial_weights(), WINDOWS: mixture.windows_by_name}
        yield {"event": first}
    if is_first and (sampler := _sampler(plugins).first(start.config.output / METRICS_FILE)):
        yield sampler
    if (point := start.point) is not None:
        changes = find_changes(point.header.identity, start.identity)
        if changes.changes:
            yield {"event": {"event": "changed", "keys": changes.event}}
            if is_first:
                for each in changes.changes:
                    print_stderr(f"changed since {point.path.name}: {each}")
    if start.revision is not None and not start.revision.is_none:
        yield {"event": {**start.revision.event(), WINDOWS: mixture.windows_by_name}}
