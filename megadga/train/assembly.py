"""Assembles a run that is ready to train from its configuration."""

import os
import socket
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from megadga.config.changes import find_changes, run_identity, with_allowed
from megadga.config.deepspeed import deepspeed_settings
from megadga.config.run import RunConfig, differences
from megadga.data.order import WindowOrder
from megadga.data.verify import DataFileWatcher, check_checksums
from megadga.errors import ConfigError
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
from megadga.run_folder.domains import read_domains
from megadga.run_folder.lock import FILE_NAME, RunLock
from megadga.run_folder.markers import RunFinishedError, RunMarkers, finished_step
from megadga.run_folder.requests import RequestFolder
from megadga.run_folder.rewinds import read_rewinds
from megadga.train.agreement import ParameterAgreement, StepAgreement
from megadga.train.checkpoints import (
    Checkpoints,
    ResumePoint,
    check_intact,
    find_resume_point,
)
from megadga.train.collective_metrics import CollectiveMetrics
from megadga.train.components import (
    batch_layout,
    checkpoint_plan,
    make_advisor,
    make_alarms,
    make_evaluation,
    make_mixture_plugin,
    make_monitors,
    make_progress,
    make_trainer,
    mean_weights_file,
    thinned_records,
    utilization,
    waiting_of,
)
from megadga.train.data import RunData, check_output, no_checkpoint
from megadga.train.described import describe_domains
from megadga.train.engine import make_engine
from megadga.train.live import (
    DataInForce,
    DataReviser,
    LiveRevisions,
    opened_in_force,
)
from megadga.train.loop import Run
from megadga.train.metrics import MetricFanOut
from megadga.train.mixture import Mixture
from megadga.train.monitors.opening import check_packages
from megadga.train.nonfinite import NonFiniteSteps
from megadga.train.opening import Opened, open_with_rule
from megadga.train.output import (
    CollectiveMarkers,
    lock_output,
    log_files,
    open_output,
)
from megadga.train.ranks import (
    CollectiveStop,
    Ranks,
    StepAllReduce,
    on_every_rank,
    on_first_rank,
    process_group,
)
from megadga.train.requests import MixtureRequests
from megadga.train.responses import CheckpointReturns, SpikeResponse
from megadga.train.restoring import ResumableEngine
from megadga.train.revised import revised_loaders
from megadga.train.revision_files import RevisionWatch, with_recorded_data
from megadga.train.revisions import Revision, check_unrevised, describe_revision, plan_revision
from megadga.train.spikes import LossSpikes
from megadga.train.step import Watching
from megadga.train.storage import Storage
from megadga.train.timing import StepTimes
from megadga.train.tracing import trace_trainer
from megadga.train.watching import drops_updates, make_spikes, watch_progress


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
    lock = RunLock(config.output, report=_print_stderr)
    try:
        with process_group() as deadline:
            accelerator: Any = get_accelerator()
            ranks = ProcessGroupCollective(None, torch.device(accelerator.current_device_name()))
            _check_same_everywhere(opened, ranks)
            finished = on_first_rank(ranks, lambda: finished_step(config))
            if finished is None or resume_from is not None or evaluate_only:
                finished = None
                # Before the model is built, which takes minutes.
                point = _resume_point(opened, ranks, lock, resume_from, allowed)
                if evaluate_only and point is None:
                    raise no_checkpoint(config)
                if point is not None:
                    opened = opened_in_force(config, opened, point.path, ranks)
                    _check_same_everywhere(opened, ranks)
                if resume_from is not None and point is not None:
                    _discard_requests(config, point, ranks)
                on_first_rank(ranks, lambda: check_packages(config))
                run = _assemble(
                    config,
                    opened,
                    stop_requested,
                    ranks,
                    lock,
                    point,
                    allowed,
                    monitored=not evaluate_only,
                )
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


def _discard_requests(config: RunConfig, point: ResumePoint, ranks: Ranks) -> None:
    """Discard requests with the steps after a checkpoint that a user names. Collective."""
    folder, step = RequestFolder(config.output), point.header.step
    on_first_rank(ranks, lambda: folder.abandon_after(step))


def _print_stderr(line: str) -> None:
    with suppress(OSError):  # a closed terminal must not end the run
        print(line, file=sys.stderr, flush=True)


def _check_same_everywhere(opened: Opened, ranks: Ranks) -> None:
    """Check that every rank has read the same configuration and shards. Collective.

    Every rank plans batches, evaluations and checkpoints by itself: with different inputs, ranks
    would train on different data or deadlock.
    """
    config, data, _ = opened
    own = {"config": config.model_dump(mode="json"), "shards": data.identity}
    first: Mapping[str, Any] = ranks.object_of_first_rank(own)

    def compare() -> None:
        if differing := differences(first, own):
            who = f"rank {ranks.rank} on {socket.gethostname()}"
            raise ConfigError(f"{who}: differs from rank 0: {differing[0]}")

    on_every_rank(ranks, compare)


def _wait_for_operators(config: RunConfig) -> None:
    accelerator: Any = get_accelerator()
    on_cpu = accelerator.device_name() == "cpu"
    names = (*needed_ops(config.deepspeed), *((SHARED_MEMORY,) if on_cpu else ()))
    wait_for_ops(
        names,
        os.environ,
        deadline_s=read_deadline_s(os.environ),
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if rank_for_messages(os.environ) == 0 and (missing := missing_ops(names, os.environ)):
        _print_stderr(
            f"compiling {', '.join(missing)} of DeepSpeed's, which takes a minute or more, once"
        )


def _assemble(
    given: RunConfig,
    opened: Opened,
    stop_requested: Callable[[], bool],
    ranks: Ranks,
    lock: RunLock,
    point: ResumePoint | None,
    allowed: Collection[str],
    *,
    monitored: bool,
) -> Run:
    """Build all components, then create the output folder, then resume from its checkpoint.

    ``given`` is the run as it is configured; ``opened`` has the data of the revision in force.
    """
    config, data, mixture = opened
    settings = deepspeed_settings(config, dist.get_world_size())
    before = None if point is None else point.header.identity
    identity = with_allowed(_identity(config, data), before, allowed)
    revision = _revision(config, data, mixture, ranks, point)
    files = on_first_rank(ranks, lambda: DataFileWatcher(data.files))
    if point is not None:
        _check_unchanged(data, files.changed_since(point.header.data), ranks)
    info = on_first_rank(ranks, lambda: describe_domains(config, data, is_new=point is None))
    engine = make_engine(config, settings, data, is_new=point is None)
    order = None if revision is None else revision.order
    collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
    rewinds = () if point is None else on_first_rank(ranks, lambda: read_rewinds(config.output))
    spikes = make_spikes(config.watch, [domain.name for domain in data.domains])
    completed = 0 if point is None else point.header.step
    drops = drops_updates(config.watch, rewinds, engine, step=completed)

    def build(
        config: RunConfig, data: RunData, mixture: Mixture, order: WindowOrder | None
    ) -> tuple[MixturePlugin, *tuple[Plugin, ...]]:
        plugin = make_mixture_plugin(config, data, mixture, engine, order)
        return (
            plugin,
            *make_alarms(mixture, plugin),
            SamplerRecords(plugin, batch_layout(config, data, mixture, engine, collective)),
            *make_evaluation(config, data, plugin, engine, collective),
            *(() if spikes is None else (spikes,)),
        )

    plugins = build(config, data, mixture, order)
    plugin = plugins[0]
    number = 0 if revision is None else revision.before.revision
    reviser = DataReviser(
        DataInForce(config, data, mixture, plugin, plugins, files, identity, number),
        ranks=ranks,
        build=build,
        identity=lambda opened: _agreed_identity(opened, ranks, before=identity),
        adopt=lambda data: _adopt(data, run, spikes),
    )
    revisions = _revisions(config, reviser, ranks, number)
    requests = MixtureRequests(RequestFolder(config.output), lambda: reviser.current.plugin, ranks)
    on_first_rank(ranks, lambda: open_output(given, lock, info, is_new=point is None))
    stalls = watch_progress(config, engine, ranks)
    storage = Storage(
        config.output,
        ranks=ranks,
        waiting=waiting_of(config),
        stop_requested=stop_requested,
        report=_print_stderr,
        advance=stalls.advance,
    )
    metrics, domain_log = log_files(config, ranks)

    def watch() -> Mapping[str, Any]:
        sinks.check()
        lock.check()
        reviser.current.files.check()
        return reviser.current.files.stamps

    checkpoints = Checkpoints(
        ResumableEngine(engine),
        config.output / CHECKPOINTS,
        plan=checkpoint_plan(config),
        content=reviser.current.content,
        metrics=metrics,
        domain_log=domain_log,
        storage=storage,
        watch=watch,
    )
    checkpoints.resume(point, loaders=revised_loaders(plugin, revision))
    requests.resume()
    monitors = make_monitors(
        config, reviser, engine, metrics if monitored else None, info.groups, ranks
    )
    progress = make_progress(config, plugin, engine.device, ranks)
    sinks = MetricFanOut(
        ()
        if metrics is None or domain_log is None
        else (
            domain_log,
            thinned_records(config, metrics, mixture.updates),
            mean_weights_file(config),
            progress,
            monitors,
        ),
        retries=waiting_of(config).pauses,
    )
    run_metrics = CollectiveMetrics(sinks, storage, make_advisor(config, ranks))
    # A failure of a metric sink on rank 0 is signalled to all ranks as a request to stop.
    stop = CollectiveStop(lambda: stop_requested() or sinks.failed)
    step_sum = StepAllReduce(
        collective,
        *(stop, requests, run_metrics.waiting, checkpoints.being_written),
        *(() if revisions is None else (revisions.flag,)),
        terms=(StepAgreement(ranks, lambda: reviser.current.plugin.weights),),
    )
    returns = CheckpointReturns(
        config.output,
        rewinds,
        checkpoints=checkpoints,
        folder=config.output / CHECKPOINTS,
        identity=identity,
        allowed=allowed,
        ranks=ranks,
        log=run_metrics.log,
    )
    response = SpikeResponse(
        config.watch.loss_spike,
        spikes,
        returns=returns,
        newest=lambda: checkpoints.newest,
        log=run_metrics.log,
    )
    watching = Watching(spikes, response.accepts if drops else None)
    markers = CollectiveMarkers(
        RunMarkers(config, writes=ranks.rank == 0), storage, before_end=sinks.check
    )
    markers.start()
    for record in _first_records(config, plugins, point, identity, revision):
        sinks.log(plugin.step, record)
    returns.log_left_out(plugin.step)
    run = Run(
        mixture=plugin,
        trainer=trace_trainer(
            make_trainer(config, data, plugin, engine, step_sum, collective, watching),
            config,
            engine,
            collective,
            batch_layout(config, data, mixture, engine, collective),
            domains=plugin.names,
            completed=completed if monitored else None,
            report=_print_stderr,
        ),
        plugins=plugins,
        metrics=run_metrics,
        checkpoints=checkpoints,
        storage=storage,
        non_finite=NonFiniteSteps(
            config.training.non_finite_limit,
            losses=token_losses(engine, engine.module),
            ranks=collective,
            latest=checkpoints.finish,
            lowest_scale=lowest_loss_scale(engine),
        ),
        spikes=response,
        parameters=ParameterAgreement(ranks, engine) if config.watch.compare_parameters else None,
        stalls=stalls,
        progress=progress,
        requests=requests,
        stop=stop,
        markers=markers,
        total_steps=config.training.steps,
        revisions=revisions,
        times=StepTimes(utilization=utilization(config, data, engine.device, ranks)),
        monitors=monitors,
    )
    return run


def _revisions(
    config: RunConfig, reviser: DataReviser, ranks: Ranks, number: int
) -> LiveRevisions | None:
    """Return what revises the data while the run trains, if it asks for it. Collective then."""
    if config.data.revisions is None:
        return None
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


def _adopt(data: DataInForce, run: Run, spikes: LossSpikes | None) -> None:
    """Make a run go on with other data, on every rank."""
    run.mixture, run.plugins = data.plugin, data.plugins
    if spikes is not None:
        spikes.revise(data.plugin.names)
    run.trainer.revise(data.plugin.names, data.plugin.observe_losses)
    run.checkpoints.revise(data.content)


def _agreed_identity(opened: Opened, ranks: Ranks, *, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's identity with other data, equal on every rank. Collective."""
    _check_same_everywhere(opened, ranks)
    return with_allowed(_identity(*opened[:2]), before, ())


def _first_records(
    config: RunConfig,
    plugins: Sequence[Plugin],
    point: ResumePoint | None,
    identity: Mapping[str, Any],
    revision: Revision | None,
) -> Iterator[Metrics]:
    """Yield the records of a start or a resume; prints on rank 0 what has changed since."""
    mixture, is_first = plugins[0], dist.get_rank() == 0
    assert isinstance(mixture, MixturePlugin)
    if mixture.step == 0:
        start = {"event": START, **mixture.initial_weights(), WINDOWS: mixture.windows_by_name}
        yield {"event": start}
    if is_first and (sampler := _sampler(plugins).first(config.output / METRICS_FILE)):
        yield sampler
    changes = None if point is None else find_changes(point.header.identity, identity)
    if point is not None and changes is not None and changes.changes:
        yield {"event": {"event": "changed", "keys": changes.event}}
        if is_first:
            for each in changes.changes:
                _print_stderr(f"changed since {point.path.name}: {each}")
    if revision is not None and not revision.is_none:
        yield {"event": {**revision.event(), WINDOWS: mixture.windows_by_name}}


def _check_unchanged(data: RunData, names: Sequence[str], ranks: Ranks) -> None:
    """Verify the checksums of data files whose size or time has changed. Collective."""
    if names and ranks.rank == 0:
        size = sum(data.files[name].path.stat().st_size for name in names)
        _print_stderr(
            f"{len(names)} shard files have changed sizes or times since the checkpoint was "
            f"written: verifying their checksums, {size / 1e9:.2f} GB"
        )
    own = [data.files[name] for name in names[ranks.rank :: ranks.world_size]]
    on_every_rank(ranks, lambda: check_checksums(own))


def _resume_point(
    opened: Opened,
    ranks: Ranks,
    lock: RunLock,
    resume_from: str | None,
    allowed: Collection[str],
) -> ResumePoint | None:
    """Return the checkpoint to resume from, after verifying it. Collective.

    If there is one, the folder belongs to this run and is locked from here on. It is, too, if the
    run was started before: its last owner may still be saving.
    """
    config, data, _ = opened
    folder = config.output / CHECKPOINTS
    identity = _identity(config, data)

    def find() -> ResumePoint | None:
        return find_resume_point(
            folder, identity=identity, ranks=ranks, wanted=resume_from, allowed=allowed
        )

    if find() is None and not on_first_rank(ranks, (config.output / FILE_NAME).exists):
        return None
    on_first_rank(ranks, lambda: lock_output(config, lock))
    point = find()  # again: the previous owner of the lock may have written newer ones
    if point is not None:
        check_intact(point, ranks)
    return point


def _identity(config: RunConfig, data: RunData) -> dict[str, Any]:
    return run_identity(config, shards=data.identity, ranks=dist.get_world_size())


def _revision(
    config: RunConfig, data: RunData, mixture: Mixture, ranks: Ranks, point: ResumePoint | None
) -> Revision | None:
    """Return what has changed since the checkpoint; None: there is none. Collective."""
    if point is None:
        return None
    identity = point.header.identity
    record = on_first_rank(ranks, lambda: read_domains(point.path))
    if record is None:
        check_unrevised(find_changes(identity, _identity(config, data)), point.path)
        return None
    revision = plan_revision(config, data, mixture.scheduler, record, identity)
    if ranks.rank == 0 and not revision.is_none:
        _print_stderr("\n".join(describe_revision(revision)))
    return revision
