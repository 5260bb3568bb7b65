"""Assembles a run that is ready to train from its configuration."""

import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from megadga.config.changes import ResumeChanges, find_changes, run_identity, with_allowed
from megadga.config.deepspeed import deepspeed_settings
from megadga.config.run import RunConfig, differences
from megadga.data.files import atomic_write
from megadga.data.verify import DataFileWatcher, check_checksums
from megadga.errors import ConfigError, ResumeError
from megadga.launch.operators import SHARED_MEMORY, needed_ops, wait_for_ops
from megadga.launch.ranks import DEADLINE, read_deadline_s
from megadga.mixers.loss_reweight import LossReweighting
from megadga.mixers.probing import DIRECTIONAL
from megadga.mixers.updates import UpdateSteps
from megadga.plugin import CollapseAlarm, MixturePlugin, Sampling
from megadga.plugin.sampling import SamplerRecords
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import Engine, limit_waiting
from megadga.probes.state import token_losses
from megadga.report.history import START
from megadga.report.sampling import BatchLayout
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint
from megadga.run_folder.lock import FILE_NAME, RunLock
from megadga.run_folder.markers import RunFinishedError, RunMarkers, finished_step
from megadga.run_folder.requests import RequestFolder
from megadga.run_folder.retention import Retention
from megadga.run_folder.rewinds import clear_rewinds, read_rewinds
from megadga.train.agreement import ParameterAgreement, StepAgreement
from megadga.train.checkpoints import (
    CheckpointPlan,
    Checkpoints,
    ResumePoint,
    check_intact,
    find_resume_point,
)
from megadga.train.collective_metrics import CollectiveMetrics
from megadga.train.data import RunData, check_output, no_checkpoint, open_data
from megadga.train.engine import load_reference, make_engine
from megadga.train.evaluation import Evaluation, EvaluationPlan
from megadga.train.loop import Run
from megadga.train.metrics import MeanWeightsFile, MetricFanOut, MetricsFile, Progress
from megadga.train.mixture import Mixture, make_mixture
from megadga.train.nonfinite import NonFiniteSteps
from megadga.train.ranks import (
    CollectiveStop,
    Ranks,
    StepAllReduce,
    on_every_rank,
    on_first_rank,
    process_group,
)
from megadga.train.replay import METRICS_FILE, shards_digest
from megadga.train.requests import MixtureRequests
from megadga.train.responses import CheckpointReturns, SpikeResponse
from megadga.train.restoring import ResumableEngine
from megadga.train.step import Reweighting, Trainer, Watching, step_seed
from megadga.train.storage import Storage
from megadga.train.thinning import ThinnedRecords
from megadga.train.waiting import Waiting
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
    Everything is validated before anything is written. Only rank 0 reads the run's folder.

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
    data = open_data(config)
    mixture = make_mixture(config, data.domains, excluded=data.excluded.keys(), basis=data.basis)
    _wait_for_operators(config)
    lock = RunLock(config.output, report=_print_stderr)
    try:
        with process_group() as deadline:
            accelerator: Any = get_accelerator()
            ranks = ProcessGroupCollective(None, torch.device(accelerator.current_device_name()))
            _check_same_everywhere(config, data, ranks)
            finished = on_first_rank(ranks, lambda: finished_step(config))
            if finished is None or resume_from is not None or evaluate_only:
                finished = None
                # Before the model is built, which takes minutes.
                point = _resume_point(config, data, ranks, lock, resume_from, allowed)
                if evaluate_only and point is None:
                    raise no_checkpoint(config)
                if resume_from is not None and point is not None:
                    _discard_requests(config, point, ranks)
                run = _assemble(config, data, mixture, stop_requested, ranks, lock, point, allowed)
                limit_waiting(deadline)  # also in the groups that DeepSpeed has created
                try:
                    yield run
                finally:
                    run.stalls.close()
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


def _check_same_everywhere(config: RunConfig, data: RunData, ranks: Ranks) -> None:
    """Check that every rank has read the same configuration and shards. Collective.

    Every rank plans batches, evaluations and checkpoints by itself: with different inputs, ranks
    would train on different data or deadlock.
    """
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
    wait_for_ops(
        (*needed_ops(config.deepspeed), *((SHARED_MEMORY,) if on_cpu else ())),
        os.environ,
        deadline_s=read_deadline_s(os.environ),
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )


def _assemble(
    config: RunConfig,
    data: RunData,
    mixture: Mixture,
    stop_requested: Callable[[], bool],
    ranks: Ranks,
    lock: RunLock,
    point: ResumePoint | None,
    allowed: Collection[str],
) -> Run:
    """Build all components, then create the output folder, then resume from its checkpoint."""
    settings = deepspeed_settings(config, dist.get_world_size())
    identity = _identity(config, data)
    files = on_first_rank(ranks, lambda: DataFileWatcher(data.files))
    if point is not None:
        _check_unchanged(data, files.changed_since(point.header.data), ranks)
    engine = make_engine(config, settings, data, is_new=point is None)
    plugin = _mixture_plugin(config, data, mixture, engine)
    collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
    rewinds = () if point is None else on_first_rank(ranks, lambda: read_rewinds(config.output))
    spikes = make_spikes(config.watch, plugin.names)
    completed = 0 if point is None else point.header.step
    drops = drops_updates(config.watch, rewinds, engine, step=completed)
    requests = MixtureRequests(RequestFolder(config.output), plugin, ranks)
    sampler = SamplerRecords(plugin, _batch_layout(config, data, mixture, engine, collective))
    plugins = (
        plugin,
        *_alarms(mixture, plugin),
        sampler,
        *_evaluation(config, data, plugin, engine, collective),
        *(() if spikes is None else (spikes,)),
    )
    on_first_rank(ranks, lambda: _open_output(config, lock, is_new=point is None))
    stalls = watch_progress(config, engine, ranks)
    storage = Storage(
        config.output,
        ranks=ranks,
        waiting=_waiting(config),
        stop_requested=stop_requested,
        report=_print_stderr,
        advance=stalls.advance,
    )
    metrics = MetricsFile(config.output / METRICS_FILE) if ranks.rank == 0 else None

    def watch() -> Mapping[str, Any]:
        sinks.check()
        lock.check()
        files.check()
        return files.stamps

    checkpoints = Checkpoints(
        ResumableEngine(engine),
        config.output / CHECKPOINTS,
        plan=_checkpoint_plan(config),
        plugins=plugins,
        identity=with_allowed(identity, None if point is None else point.header.identity, allowed),
        metrics=metrics,
        storage=storage,
        watch=watch,
    )
    checkpoints.resume(point)
    requests.resume()
    sinks = MetricFanOut(
        ()
        if metrics is None
        else (
            _thinned(config, metrics, mixture.updates),
            _mean_weights(config),
            _progress(config, plugin),
        ),
        retries=_waiting(config).pauses,
    )
    run_metrics = CollectiveMetrics(sinks, storage)
    # A failure of a metric sink on rank 0 is signalled to all ranks as a request to stop.
    stop = CollectiveStop(lambda: stop_requested() or sinks.failed)
    step_sum = StepAllReduce(
        collective,
        *(stop, requests, run_metrics.waiting, checkpoints.being_written),
        terms=(StepAgreement(ranks, lambda: plugin.weights),),
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
    markers = _CollectiveMarkers(
        RunMarkers(config, writes=ranks.rank == 0), storage, before_end=sinks.check
    )
    markers.start()
    if plugin.step == 0:
        sinks.log(0, {"event": {"event": START, **plugin.initial_weights()}})
    if metrics is not None and (first := sampler.first(config.output / METRICS_FILE)):
        sinks.log(plugin.step, first)
    returns.log_left_out(plugin.step)
    if point is not None:
        _report_changes(point, find_changes(point.header.identity, identity), sinks)
    return Run(
        mixture=plugin,
        trainer=_trainer(config, data, plugin, engine, step_sum, collective, watching),
        plugins=plugins,
        metrics=run_metrics,
        checkpoints=checkpoints,
        storage=storage,
        non_finite=NonFiniteSteps(
            config.training.non_finite_limit,
            losses=token_losses(engine, engine.module),
            ranks=collective,
            latest=checkpoints.finish,
        ),
        spikes=response,
        parameters=ParameterAgreement(ranks, engine) if config.watch.compare_parameters else None,
        stalls=stalls,
        requests=requests,
        stop=stop,
        markers=markers,
        total_steps=config.training.steps,
    )


def _report_changes(point: ResumePoint, changes: ResumeChanges, sinks: MetricFanOut) -> None:
    """Log what the run has changed since the checkpoint, and print it on rank 0."""
    if not changes.changes:
        return
    sinks.log(point.header.step, {"event": {"event": "changed", "keys": changes.event}})
    if dist.get_rank() == 0:
        for each in changes.changes:
            _print_stderr(f"changed since {point.path.name}: {each}")


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
    config: RunConfig,
    data: RunData,
    ranks: Ranks,
    lock: RunLock,
    resume_from: str | None,
    allowed: Collection[str],
) -> ResumePoint | None:
    """Return the checkpoint to resume from, after verifying it. Collective.

    If there is one, the folder belongs to this run and is locked from here on. It is, too, if the
    run was started before: its last owner may still be saving.
    """
    folder = config.output / CHECKPOINTS
    identity = _identity(config, data)

    def find() -> ResumePoint | None:
        return find_resume_point(
            folder, identity=identity, ranks=ranks, wanted=resume_from, allowed=allowed
        )

    if find() is None and not on_first_rank(ranks, (config.output / FILE_NAME).exists):
        return None
    on_first_rank(ranks, lambda: _lock(config, lock))
    point = find()  # again: the previous owner of the lock may have written newer ones
    if point is not None:
        check_intact(point, ranks)
    return point


def _identity(config: RunConfig, data: RunData) -> dict[str, Any]:
    return run_identity(config, shards=data.identity, ranks=dist.get_world_size())


def _mixture_plugin(
    config: RunConfig, data: RunData, mixture: Mixture, engine: Engine
) -> MixturePlugin:
    return MixturePlugin(
        engine,
        data.domains,
        data.specific,
        mixture.scheduler,
        sampling=Sampling(
            seed=config.seed,
            method=config.sampling.method,
            max_epochs=config.sampling.max_epochs,
        ),
        interval=mixture.updates or config.training.steps,  # None for fixed mixtures
        probe=mixture.probe or DIRECTIONAL,
    )


def _batch_layout(
    config: RunConfig,
    data: RunData,
    mixture: Mixture,
    engine: Engine,
    collective: ProcessGroupCollective,
) -> BatchLayout:
    return BatchLayout(
        ranks=collective.world_size,
        micro_batch_size=engine.train_micro_batch_size_per_gpu(),
        global_batch_size=engine.train_batch_size(),
        sequence_length=config.model.sequence_length,
        seed=config.seed,
        method=config.sampling.method,
        max_epochs=config.sampling.max_epochs,
        updates=mixture.updates,
        shards=shards_digest(data.identity["domains"]),
    )


def _trainer(
    config: RunConfig,
    data: RunData,
    plugin: MixturePlugin,
    engine: Engine,
    step_sum: StepAllReduce,
    collective: ProcessGroupCollective,
    watching: Watching,
) -> Trainer:
    reference = None
    if data.reference is not None:
        reference = load_reference(config, data.reference, engine, collective=collective)
    reweighting = None
    if (section := config.training.loss_reweighting) is not None:
        rule = LossReweighting(section.strategy, section.temperature, section.warmup)
        reweighting = Reweighting(rule, token_losses(engine, engine.module))
    return Trainer(
        engine,
        plugin.names,
        step_sum=step_sum,
        clock=time.perf_counter,
        seed=lambda step: step_seed(config.seed, step, rank=collective.rank),
        observe_losses=plugin.observe_losses,
        reference=reference,
        reweighting=reweighting,
        watching=watching,
    )


def _alarms(mixture: Mixture, plugin: MixturePlugin) -> tuple[CollapseAlarm, ...]:
    least = mixture.min_effective_domains
    return (CollapseAlarm(lambda: plugin.weights, min_effective=least),) if least > 0.0 else ()


def _evaluation(
    config: RunConfig,
    data: RunData,
    plugin: MixturePlugin,
    engine: Engine,
    collective: ProcessGroupCollective,
) -> tuple[Evaluation, ...]:
    """Return the evaluation of the held-out splits, if the run has any."""
    section = config.evaluation
    if section is None or not (data.held_out or data.held_out_specific):
        return ()
    plan = EvaluationPlan(
        interval=section.interval, last_step=config.training.steps, sequences=section.sequences
    )
    return (
        Evaluation(
            engine,
            domains=data.held_out,
            specific=data.held_out_specific,
            plan=plan,
            collective=collective,
            observe_general=plugin.observe_general,
        ),
    )


def _checkpoint_plan(config: RunConfig) -> CheckpointPlan:
    section = config.checkpoint
    if section is None:
        return CheckpointPlan(None, config.training.steps, Retention(keep_last=None))
    best = section.keep_best
    retention = Retention(
        section.keep_last,
        section.keep_every,
        best_loss=None if best is None else best.loss,
        num_best=1 if best is None else best.number,
    )
    return CheckpointPlan(
        section.interval, config.training.steps, retention, asynchronous=section.asynchronous
    )


def _waiting(config: RunConfig) -> Waiting:
    """Return how long the run waits for its file system; without pauses, as for other ranks."""
    section = config.checkpoint
    if section is None or section.on_error == "fail":
        return Waiting(pauses=False, limit_s=read_deadline_s(os.environ), limit_key=DEADLINE)
    minutes = section.pause_minutes
    return Waiting(
        pauses=True,
        limit_s=None if minutes is None else 60.0 * minutes,
        limit_key="checkpoint.pause_minutes",
    )


def _open_output(config: RunConfig, lock: RunLock, *, is_new: bool) -> None:
    """Create and lock the run's folder, and write its configuration; on rank 0."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(config, error) from None
    _lock(config, lock)
    if is_new and find_checkpoint(config.output / CHECKPOINTS) is not None:
        raise ResumeError(
            f"{config.output}: expected no checkpoint, as at the start of this run, found one: "
            "another process has trained here; start again to continue"
        )
    try:
        if is_new:
            clear_rewinds(config.output)
        with atomic_write(config.output / "config.yaml") as file:
            file.write(config.to_yaml().encode())
    except OSError as error:
        raise _unwritable(config, error) from None


def _lock(config: RunConfig, lock: RunLock) -> None:
    try:
        lock.acquire()
    except OSError as error:
        raise _unwritable(config, error) from None


def _unwritable(config: RunConfig, error: OSError) -> ConfigError:
    found = error.strerror or str(error)
    return config.invalid("output", expected="a folder that can be written", found=found)


@final
class _CollectiveMarkers:
    """Writes markers on rank 0, and raises on every rank if that fails.

    Args:
        markers: The run's markers.
        storage: The run's file system.
        before_end: Called on rank 0 before the end marker is written; its exceptions end the run
            on every rank, without a marker.
    """

    def __init__(
        self, markers: RunMarkers, storage: Storage, *, before_end: Callable[[], None]
    ) -> None:
        self._markers = markers
        self._storage = storage
        self._before_end = before_end

    def start(self) -> None:
        """See ``RunMarkers``. Collective."""
        self._storage.first("markers", self._markers.start)

    def end(self, step: int, *, finished: bool) -> None:
        """See ``RunMarkers``. Collective."""

        def end() -> None:
            self._before_end()
            self._markers.end(step, finished=finished)

        self._storage.first("markers and metrics", end)


def _thinned(
    config: RunConfig, metrics: MetricsFile, updates: UpdateSteps | None
) -> ThinnedRecords:
    steps, section = config.training.steps, config.evaluation
    return ThinnedRecords(
        metrics,
        every=config.metrics.by_domain_every,
        updates=updates,
        evaluation_interval=steps if section is None else section.interval,
        last_step=steps,
    )


def _mean_weights(config: RunConfig) -> MeanWeightsFile:
    return MeanWeightsFile(
        config.output / "mean_weights.yaml",
        due=_checkpoint_plan(config).due,
        last_step=config.training.steps,
    )


def _progress(config: RunConfig, mixture: MixturePlugin) -> Progress:
    return Progress(
        total_steps=config.training.steps,
        first_step=mixture.step,
        weights=dict(zip(mixture.names, mixture.weights.tolist(), strict=True)),
        stream=sys.stderr,
        line_interval=max(1, config.training.steps // 100),
    )
