"""Assembles a run that is ready to train from its configuration."""

import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from megadga.config.deepspeed import deepspeed_settings
from megadga.config.run import RunConfig, changes, differences
from megadga.data.files import atomic_write
from megadga.data.verify import DataFileWatcher, check_checksums
from megadga.errors import ConfigError, ResumeError
from megadga.launch.operators import SHARED_MEMORY, needed_ops, wait_for_ops
from megadga.launch.ranks import read_deadline_s
from megadga.mixers.loss_reweight import LossReweighting
from megadga.mixers.probing import DIRECTIONAL
from megadga.plugin import CollapseAlarm, MixturePlugin, Sampling
from megadga.plugin.sampling import SamplerRecords
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import Engine, limit_waiting
from megadga.probes.state import token_losses
from megadga.probes.weights_only import WeightsOnlyEngine
from megadga.report.history import START
from megadga.report.sampling import BatchLayout
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint
from megadga.run_folder.lock import RunLock
from megadga.run_folder.markers import RunFinishedError, RunMarkers, finished_step
from megadga.run_folder.requests import RequestFolder
from megadga.train.checkpoints import (
    CheckpointPlan,
    Checkpoints,
    ResumePoint,
    check_intact,
    find_resume_point,
)
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
from megadga.train.step import Reweighting, Trainer, step_seed


@contextmanager
def open_run(
    config: RunConfig,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    resume_from: str | None = None,
    evaluate_only: bool = False,
) -> Generator[Run]:
    """Yield the run of a configuration, resumed from its checkpoint if there is one. Collective.

    Works under the launchers of DeepSpeed and torch, under MPI and SLURM, and as a single process.
    Everything is validated before anything is written. Only rank 0 reads the run's folder.

    Args:
        config: The run.
        stop_requested: Whether this rank was asked to stop; called in every step.
        resume_from: Name of the checkpoint to resume from; None: the latest.
        evaluate_only: Evaluate without training: the run may be finished, and must have a
            checkpoint.

    Raises:
        RunFinishedError: If the run is already finished and not ``evaluate_only``; on every rank,
            after the process group was destroyed.
        ConfigError: If the configuration is inconsistent with the shards, the ranks or DeepSpeed,
            or differs between ranks.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
        ResumeError: If the output folder holds a checkpoint of another run, or a damaged one.
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
                point = _resume_point(config, data, ranks, lock, resume_from)
                if evaluate_only and point is None:
                    raise no_checkpoint(config)
                if resume_from is not None and point is not None:
                    _discard_requests(config, point, ranks)
                run = _assemble(config, data, mixture, stop_requested, ranks, lock, point)
                limit_waiting(deadline)  # also in the groups that DeepSpeed has created
                yield run
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
    # A failure of a metric sink on rank 0 is signalled to all ranks as a request to stop.
    stop = CollectiveStop(lambda: stop_requested() or sinks.failed)
    requests = MixtureRequests(RequestFolder(config.output), plugin, ranks)
    step_sum = StepAllReduce(collective, stop, requests)
    trainer = _trainer(config, data, plugin, engine, step_sum, collective)
    alarms = _alarms(mixture, plugin)
    sampler = SamplerRecords(plugin, _batch_layout(config, data, mixture, engine, collective))
    plugins = (plugin, *alarms, sampler, *_evaluation(config, data, plugin, engine, collective))
    on_first_rank(ranks, lambda: _open_output(config, lock, is_new=point is None))
    metrics = MetricsFile(config.output / METRICS_FILE) if ranks.rank == 0 else None

    def watch() -> Mapping[str, Any]:
        sinks.check()
        lock.check()
        files.check()
        return files.stamps

    checkpoints = Checkpoints(
        WeightsOnlyEngine(engine),
        config.output / CHECKPOINTS,
        plan=_checkpoint_plan(config),
        plugins=plugins,
        identity=identity,
        metrics=metrics,
        ranks=ranks,
        watch=watch,
    )
    checkpoints.resume(point)
    requests.resume()
    sinks = MetricFanOut(
        () if metrics is None else (metrics, _mean_weights(config), _progress(config, plugin))
    )
    markers = _CollectiveMarkers(
        RunMarkers(config, writes=ranks.rank == 0), ranks, before_end=sinks.check
    )
    markers.start()
    if plugin.step == 0:
        sinks.log(0, {"event": {"event": START, **plugin.initial_weights()}})
    if metrics is not None and (first := sampler.first(config.output / METRICS_FILE)):
        sinks.log(plugin.step, first)
    if point is not None and (changed := changes(point.header.identity, identity)):
        sinks.log(plugin.step, {"event": {"event": "changed", "keys": changed}})
    return Run(
        mixture=plugin,
        trainer=trainer,
        plugins=plugins,
        metrics=sinks,
        checkpoints=checkpoints,
        non_finite=NonFiniteSteps(
            config.training.non_finite_limit,
            losses=token_losses(engine, engine.module),
            ranks=collective,
            latest=lambda: checkpoints.newest,
        ),
        requests=requests,
        stop=stop,
        markers=markers,
        total_steps=config.training.steps,
    )


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
) -> ResumePoint | None:
    """Return the checkpoint to resume from, after verifying it. Collective.

    If there is one, the folder belongs to this run and is locked from here on.
    """
    folder = config.output / CHECKPOINTS
    identity = _identity(config, data)

    def find() -> ResumePoint | None:
        return find_resume_point(folder, identity=identity, ranks=ranks, wanted=resume_from)

    if find() is None:
        return None
    on_first_rank(ranks, lambda: _lock(config, lock))
    point = find()  # again: the previous owner of the lock may have written newer ones
    if point is not None:
        check_intact(point, ranks)
    return point


def _identity(config: RunConfig, data: RunData) -> dict[str, Any]:
    """Return everything that determines the training result bit for bit.

    The number of ranks is included, as DeepSpeed partitions optimizer states among them.
    """
    return {**config.identity(), "shards": data.identity, "ranks": dist.get_world_size()}


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
    return CheckpointPlan(
        interval=None if section is None else section.interval,
        last_step=config.training.steps,
        keep_last=None if section is None else section.keep_last,
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
        ranks: All ranks.
        before_end: Called on rank 0 before the end marker is written; its exceptions end the run
            on every rank, without a marker.
    """

    def __init__(
        self, markers: RunMarkers, ranks: Ranks, *, before_end: Callable[[], None]
    ) -> None:
        self._markers = markers
        self._ranks = ranks
        self._before_end = before_end

    def start(self) -> None:
        """See ``RunMarkers``. Collective."""
        on_first_rank(self._ranks, self._markers.start)

    def end(self, step: int, *, finished: bool) -> None:
        """See ``RunMarkers``. Collective."""

        def end() -> None:
            self._before_end()
            self._markers.end(step, finished=finished)

        on_first_rank(self._ranks, end)


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
