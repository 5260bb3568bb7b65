"""From a configuration to a run that is ready to train: the only place that knows all parts."""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from megadga.alignment.methods import Probing
from megadga.build.data import RunData, open_data
from megadga.build.engine import make_engine
from megadga.build.mixture import Mixture, make_mixture
from megadga.build.ranks import process_group
from megadga.build.reference_model import load_reference
from megadga.cluster.markers import RunMarkers
from megadga.cluster.operators import SHARED_MEMORY, needed_ops, wait_for_ops
from megadga.cluster.ranks import read_deadline_s
from megadga.config.deepspeed import deepspeed_settings
from megadga.config.models import RunConfig
from megadga.mixing.loss_reweight import LossReweighting
from megadga.plugin import CollapseAlarm, DgaPlugin, Sampling
from megadga.train.checkpoints import CheckpointPlan, Checkpoints
from megadga.train.evaluation import Evaluation, EvaluationPlan
from megadga.train.header import latest_checkpoint, read_header
from megadga.train.loop import Run
from megadga.train.mean_weights import MeanWeightsFile
from megadga.train.metrics import FanOut, MetricsFile
from megadga.train.nonfinite import NonFiniteSteps
from megadga.train.passes import Reweighting
from megadga.train.progress import Progress
from megadga.train.stopping import AgreedStop
from megadga.train.summing import StepSum
from megadga.train.trainer import Trainer
from megadga.zero.alone import losses_alone
from megadga.zero.collective import ProcessGroupCollective
from megadga.zero.deadline import limit_waiting
from megadga.zero.engine import Engine


@contextmanager
def open_run(
    config: RunConfig, *, stop_requested: Callable[[], bool] = lambda: False
) -> Generator[Run]:
    """Yield the run that a configuration describes, at the step where it stopped. Collective.

    Works under the launchers of DeepSpeed and torch, under MPI and SLURM, and as a single process.
    Everything is validated before anything is written.

    Args:
        config: The run.
        stop_requested: Whether this rank was asked to stop; asked in every step.

    Raises:
        ConfigError: If the configuration contradicts the shards, the ranks or DeepSpeed.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
        ResumeError: If the output folder holds a checkpoint of another run.
        UnsupportedEngineError: If alignments are not known to be exact under DeepSpeed's settings.
    """
    data = open_data(config)
    mixture = make_mixture(config, data.domains, left_out=data.left_out.keys(), basis=data.basis)
    _wait_for_operators(config)
    with process_group() as deadline:
        run = _assemble(config, data, mixture, stop_requested)
        limit_waiting(deadline)  # in the groups, too, that DeepSpeed has made meanwhile
        yield run
        run.mixture.close()


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
    config: RunConfig, data: RunData, mixture: Mixture, stop_requested: Callable[[], bool]
) -> Run:
    """Build every part, then create the output folder, then continue from its checkpoint."""
    settings = deepspeed_settings(config, dist.get_world_size())
    identity = _identity(config, data)
    folder = config.output / "checkpoints"
    if (checkpoint := latest_checkpoint(folder)) is not None:
        read_header(checkpoint, identity=identity)  # before minutes go into building a model
    engine = make_engine(config, settings, vocabulary_size=data.vocabulary_size)
    dga = _mixture_plugin(config, data, mixture, engine)
    collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
    stop = AgreedStop(stop_requested)
    trainer = _trainer(config, data, dga, engine, StepSum(collective, stop), collective)
    alarms = _alarms(mixture, dga)
    plugins = (dga, *alarms, *_evaluation(config, data, dga, engine, collective))
    metrics = _open_output(config) if collective.rank == 0 else None
    checkpoints = Checkpoints(
        engine,
        folder,
        plan=_checkpoint_plan(config),
        plugins=plugins,
        identity=identity,
        metrics=metrics,
    )
    checkpoints.resume()
    markers = RunMarkers(config, writes=collective.rank == 0)
    markers.start()
    sinks = () if metrics is None else (metrics, _mean_weights(config), _progress(config, dga))
    return Run(
        mixture=dga,
        trainer=trainer,
        plugins=plugins,
        metrics=FanOut(sinks),
        checkpoints=checkpoints,
        non_finite=NonFiniteSteps(
            config.training.non_finite_limit,
            losses=losses_alone(engine, engine.module),
            ranks=collective,
            latest=partial(latest_checkpoint, folder),
        ),
        stop=stop,
        markers=markers,
        total_steps=config.training.steps,
    )


def _identity(config: RunConfig, data: RunData) -> dict[str, Any]:
    """Return all that decides the bits of what is trained.

    The number of ranks is part of it: DeepSpeed's optimizer states are cut into as many pieces.
    """
    return {**config.identity(), "shards": data.identity, "ranks": dist.get_world_size()}


def _mixture_plugin(
    config: RunConfig, data: RunData, mixture: Mixture, engine: Engine
) -> DgaPlugin:
    return DgaPlugin(
        engine,
        data.domains,
        data.specific,
        mixture.scheduler,
        sampling=Sampling(
            seed=config.seed,
            method=config.sampling.method,
            max_epochs=config.sampling.max_epochs,
        ),
        interval=mixture.interval or config.training.steps,  # fixed mixtures have none
        probing=mixture.probing or Probing(),
    )


def _trainer(
    config: RunConfig,
    data: RunData,
    dga: DgaPlugin,
    engine: Engine,
    together: StepSum,
    collective: ProcessGroupCollective,
) -> Trainer:
    reference = None
    if data.reference is not None:
        reference = load_reference(config, data.reference, engine, collective=collective)
    reweighting = None
    if (section := config.training.loss_reweighting) is not None:
        rule = LossReweighting(section.strategy, section.temperature, section.warmup)
        reweighting = Reweighting(rule, losses_alone(engine, engine.module))
    return Trainer(
        engine,
        dga.names,
        together=together,
        clock=time.perf_counter,
        observe_losses=dga.observe_losses,
        reference=reference,
        reweighting=reweighting,
    )


def _alarms(mixture: Mixture, dga: DgaPlugin) -> tuple[CollapseAlarm, ...]:
    least = mixture.min_effective_domains
    return (CollapseAlarm(lambda: dga.weights, min_effective=least),) if least > 0.0 else ()


def _evaluation(
    config: RunConfig,
    data: RunData,
    dga: DgaPlugin,
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
            observe_general=dga.observe_general,
        ),
    )


def _checkpoint_plan(config: RunConfig) -> CheckpointPlan:
    section = config.checkpoint
    return CheckpointPlan(
        interval=None if section is None else section.interval,
        last_step=config.training.steps,
        keep_last=None if section is None else section.keep_last,
    )


def _open_output(config: RunConfig) -> MetricsFile:
    """Create the run's folder and write down what the run is."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        (config.output / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise config.mistake(
            "output", expected="a folder that can be written", found=error.strerror or str(error)
        ) from None
    return MetricsFile(config.output / "metrics.jsonl")


def _mean_weights(config: RunConfig) -> MeanWeightsFile:
    return MeanWeightsFile(
        config.output / "mean_weights.yaml",
        due=_checkpoint_plan(config).due,
        last_step=config.training.steps,
    )


def _progress(config: RunConfig, mixture: DgaPlugin) -> Progress:
    return Progress(
        total_steps=config.training.steps,
        first_step=mixture.step,
        weights=dict(zip(mixture.names, mixture.weights.tolist(), strict=True)),
        stream=sys.stderr,
        line_interval=max(1, config.training.steps // 100),
    )
