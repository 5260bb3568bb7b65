"""Makes the components of a run, each from its part of the configuration."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from megadga.accelerators import peak_flops
from megadga.config.run import RunConfig
from megadga.console import print_stderr
from megadga.data.files import parse_strictly
from megadga.data.order import WindowOrder
from megadga.launch.ranks import DEADLINE, read_deadline_s
from megadga.mixers.loss_reweight import LossReweighting
from megadga.mixers.probing import DIRECTIONAL
from megadga.plugin import CollapseAlarm, MixturePlugin, Plugin, RepeatAlarm, Sampling
from megadga.plugin.sampling import SamplerRecords
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import Engine
from megadga.probes.state import token_losses
from megadga.report.sampling import BatchLayout
from megadga.run_folder import METRICS_FILE
from megadga.run_folder.retention import Retention
from megadga.terminal import PinnedRows, can_pin_rows
from megadga.train.advising import Advisor
from megadga.train.checkpoints import CheckpointPlan
from megadga.train.data import RunData
from megadga.train.engine import load_reference
from megadga.train.evaluation import Evaluation, EvaluationPlan
from megadga.train.flops import training_flops
from megadga.train.live import DataReviser
from megadga.train.live_view import LiveView, ShownWeights, Status
from megadga.train.metrics import MetricsFile
from megadga.train.mixture import Mixture
from megadga.train.monitors.opening import open_monitors
from megadga.train.monitors.sink import Monitors
from megadga.train.monitors.values import RecordValues
from megadga.train.progress import NoProgress, Progress, ProgressLines, shown_weights
from megadga.train.ranks import Ranks, StepAllReduce, on_first_rank
from megadga.train.replay import shards_digest
from megadga.train.spikes import LossSpikes
from megadga.train.step import Reweighting
from megadga.train.trainer import Trainer, Watching, step_seed
from megadga.train.waiting import Waiting


def make_plugins(
    config: RunConfig,
    data: RunData,
    mixture: Mixture,
    order: WindowOrder | None,
    *,
    engine: Engine,
    collective: ProcessGroupCollective,
    spikes: LossSpikes | None,
) -> tuple[MixturePlugin, *tuple[Plugin, ...]]:
    """Return what is called after every step, in this order; the mixture is first. Collective."""
    plugin = _make_mixture_plugin(config, data, mixture, engine, order)
    return (
        plugin,
        *_make_alarms(mixture, plugin),
        SamplerRecords(plugin, batch_layout(config, data, mixture, engine, collective)),
        *_make_evaluation(config, data, plugin, engine, collective),
        *(() if spikes is None else (spikes,)),
    )


def _make_mixture_plugin(
    config: RunConfig,
    data: RunData,
    mixture: Mixture,
    engine: Engine,
    order: WindowOrder | None,
) -> MixturePlugin:
    """Return the mixture over a run's domains; ``order``: of the windows, if they were revised."""
    return MixturePlugin(
        engine,
        data.domains,
        data.specific,
        mixture.scheduler,
        sampling=Sampling(
            seed=config.seed,
            method=config.sampling.method,
            max_epochs=config.sampling.max_epochs,
            order=order,
            objective=mixture.objective,
            resampled_uniformly=mixture.resampled_uniformly,
        ),
        interval=mixture.updates or config.training.steps,  # None for fixed mixtures
        probe=mixture.probe or DIRECTIONAL,
    )


def batch_layout(
    config: RunConfig,
    data: RunData,
    mixture: Mixture,
    engine: Engine,
    collective: ProcessGroupCollective,
) -> BatchLayout:
    """Return what a run's batches are planned and distributed by."""
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


def make_trainer(
    config: RunConfig,
    data: RunData,
    plugin: MixturePlugin,
    engine: Engine,
    step_sum: StepAllReduce,
    collective: ProcessGroupCollective,
    watching: Watching,
) -> Trainer:
    """Return what executes a run's steps. Collective if it uses a reference model."""
    reference = None
    if data.reference is not None:
        reference = load_reference(config, data.reference, engine, collective=collective)
    reweighting = None
    if (section := config.training.loss_reweighting) is not None:
        temperature = section.temperature
        if isinstance(temperature, tuple):
            temperature = {stage.step: stage.temperature for stage in temperature}
        rule = LossReweighting(section.strategy, temperature, section.warmup)
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
        with_norms=plugin.observes_norms,
    )


def _make_alarms(mixture: Mixture, plugin: MixturePlugin) -> tuple[Plugin, ...]:
    """Return what tells of domains that repeat, and of weights on too few, if the rule does."""
    repeats = RepeatAlarm(lambda: plugin.ended)
    least = mixture.min_effective_domains
    if least == 0.0:
        return (repeats,)
    return repeats, CollapseAlarm(lambda: plugin.weights, min_effective=least)


def _make_evaluation(
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
            epochs=lambda: plugin.epochs_by_name,
        ),
    )


def checkpoint_plan(config: RunConfig) -> CheckpointPlan:
    """Return when a run's checkpoints are written, and which are kept."""
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


def waiting_of(config: RunConfig) -> Waiting:
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


def utilization(
    config: RunConfig, data: RunData, device: torch.device, ranks: Ranks
) -> float | None:
    """Return the model FLOPs utilisation of one token per second.

    None: the accelerator's peak in half precision is not known, or training is in fp32 and no peak
    is given, or the model's operations are not known, or another rank logs it.
    """
    peak = config.metrics.peak_flops
    if peak is None and device.type == "cuda" and config.training.precision != "fp32":
        peak = peak_flops(torch.cuda.get_device_name(device))
    if peak is None or ranks.rank > 0:
        return None
    flops = training_flops(config, data)
    return None if flops is None else flops / (peak * ranks.world_size)


def make_monitors(
    config: RunConfig,
    reviser: DataReviser,
    engine: Any,
    metrics: MetricsFile | None,
    groups: Mapping[str, Sequence[str]],
    ranks: Ranks,
) -> Monitors:
    """Open the run's monitors on the rank that logs, after its metrics were cut. Collective.

    Args:
        config: The run.
        reviser: Has the mixture, which may be over other domains later.
        engine: DeepSpeed's, which may have monitors of its own.
        metrics: The metrics; None: there are no monitors.
        groups: Names of the domains of each group.
        ranks: All ranks.

    Raises:
        ConfigError: If a monitor of a new run cannot be opened; on every rank.
    """
    opened = [Monitors(())]

    def on_first() -> None:
        if metrics is None:
            return
        plugin = reviser.current.plugin
        values = RecordValues(
            dict(zip(plugin.names, plugin.weights.tolist(), strict=True)),
            windows=lambda: reviser.current.plugin.windows_by_name,
            global_batch_size=config.training.global_batch_size,
            groups=groups,
        )
        opened[0] = open_monitors(
            config, values, engine=engine, step=plugin.step, abandoned=metrics.abandoned_until
        )

    on_first_rank(ranks, on_first)
    return opened[0]


def make_advisor(config: RunConfig, ranks: Ranks) -> Advisor | None:
    """Return what judges the run, on rank 0."""
    if ranks.rank > 0:
        return None
    return Advisor(
        config.output, config.model_dump(mode="json"), metrics=config.output / METRICS_FILE
    )


def make_progress(
    config: RunConfig, mixture: MixturePlugin, device: torch.device, ranks: Ranks
) -> Progress:
    """Return what shows a run's progress on rank 0, and print there what the run runs on.

    On a terminal with a cursor it is a view, elsewhere it is lines.
    """
    if ranks.rank != 0:
        return NoProgress()
    steps, step = config.training.steps, mixture.step
    where = f"{ranks.world_size} rank{'s' * (ranks.world_size > 1)} on {_device_name(device)}"
    after = f", continues after step {step}" if step else ""
    print_stderr(f"{config.output}: {steps:,} steps, {where}{after}")
    weights = shown_weights(mixture.initial_weights())
    rows = PinnedRows.on(sys.stderr) if can_pin_rows(sys.stderr, os.environ) else None
    if rows is None:
        interval = max(1, steps // 100)
        return ProgressLines(
            total_steps=steps, weights=weights, stream=sys.stderr, line_interval=interval
        )
    start = weights if step == 0 else _weights_at_start(config.output / METRICS_FILE)
    status = Status(
        title=f"{config.output}, {where}",
        total_steps=steps,
        weights=ShownWeights.of(step, weights),
        start=None if start is None else ShownWeights.of(0, start),
        step=step,
    )
    is_unicode = sys.stderr.encoding.lower().startswith("utf")
    return LiveView(rows, status, bar="━" if is_unicode else "=")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _weights_at_start(metrics: Path) -> Mapping[str, float] | None:
    """Return the weights at step 0, which the first line of a run's metrics has."""
    with suppress(OSError), metrics.open(encoding="utf-8") as file:
        record = parse_strictly(file.readline().rstrip("\n") or "{}")
        match record:
            case {"event": "start"}:
                return shown_weights(record)
            case _:
                pass
    return None
