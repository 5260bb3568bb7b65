"""A prediction for people, and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from megadga.accelerators import Accelerator
from megadga.mixers.probing import Probe, Sharded
from megadga.planning.constants import Constants, as_json, as_rows
from megadga.planning.prediction import Prediction

_GIB = 2**30


def render(
    prediction: Prediction,
    accelerator: Accelerator,
    constants: Constants,
    largest: int | None,
) -> Iterator[str]:
    """Yield a prediction line by line.

    Args:
        prediction: What a run comes to.
        accelerator: What it trains on.
        constants: What the prediction rests on.
        largest: The largest micro-batch that fits; None: none does.
    """
    for label, text in _overview(prediction, accelerator, largest).items():
        yield f"{label:<14}{text}"
    yield ""
    yield from _memory(prediction)
    yield ""
    yield from _seconds(prediction)
    yield ""
    yield from _communication(prediction)
    yield ""
    yield from _constants(constants)


def render_alternatives(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Yield a table of settings, a line each.

    Args:
        predictions: Of the same run with other settings.
    """
    rows = [
        (
            str(each.run.workload.zero.stage),
            "yes" if each.run.workload.checkpointing else "no",
            str(each.run.workload.micro_batch),
            str(each.run.workload.accumulation),
            f"{each.memory.peak / _GIB:.1f}",
            "yes" if each.fits else "no",
            f"{each.step.total:.3f}",
            f"{each.tokens_per_s:,.0f}",
            f"{each.utilisation:.1%}",
            f"{each.overhead:.2%}",
            f"{each.days:.2f}",
        )
        for each in predictions
    ]
    header = (
        *("ZeRO", "checkpointing", "micro-batch", "accumulation", "GiB a rank", "fits"),
        *("step s", "tokens/s", "MFU", "updates", "days"),
    )
    yield from _table([header, *rows])


def as_record(
    prediction: Prediction, accelerator: Accelerator, constants: Constants, largest: int | None
) -> dict[str, Any]:
    """Return a prediction as JSON."""
    workload, update = prediction.run.workload, prediction.update
    return {
        "accelerator": accelerator.name,
        "devices": workload.ranks,
        "parameters": workload.decoder.num_parameters,
        "zero_stage": workload.zero.stage,
        "activation_checkpointing": workload.checkpointing,
        "micro_batch": workload.micro_batch,
        "accumulation": workload.accumulation,
        "fits": prediction.fits,
        "largest_micro_batch": largest,
        "memory": {
            "usable_bytes": prediction.usable_bytes,
            "peak_bytes": prediction.memory.peak,
            "peak_at": prediction.memory.limiting,
            "resident": dict(prediction.memory.resident),
            "moments": dict(prediction.memory.moments),
            "parts": dict(prediction.memory.parts),
        },
        "step_s": _step_parts(prediction) | {"total": prediction.step.total},
        "update_s": None if update is None else {**update.parts, "total": update.total},
        "overhead": prediction.overhead,
        "sent_bytes": {"step": prediction.step_sent, "update": prediction.update_sent},
        "evaluation_s": prediction.evaluation_s,
        "checkpoint": {
            "bytes": prediction.checkpoint_bytes,
            "written_s": prediction.checkpoint_s,
            "stalled_s": prediction.stalled_s,
        },
        "tokens_per_s": prediction.tokens_per_s,
        "utilisation": prediction.utilisation,
        "days": prediction.days,
        "constants": as_json(constants),
    }


def _overview(
    prediction: Prediction, accelerator: Accelerator, largest: int | None
) -> Mapping[str, str]:
    run, memory = prediction.run, prediction.memory
    workload, decoder = run.workload, run.workload.decoder
    precision = "bf16" if workload.element_bytes == 2 else "fp32"
    checkpointing = ", activation checkpointing" if workload.checkpointing else ""
    return {
        "model": f"{decoder.num_parameters / 1e9:.2f} billion parameters, "
        f"{decoder.num_layers} layers of {decoder.hidden_size:,}",
        "devices": f"{workload.ranks:,} x {accelerator.name}",
        "training": f"ZeRO-{workload.zero.stage}, {precision}{checkpointing}: {workload.ranks:,} "
        f"ranks x {workload.micro_batch} x {workload.accumulation} sequences of "
        f"{workload.sequence_length:,} tokens",
        "memory": f"{memory.peak / _GIB:.1f} GiB a rank at the most ({memory.limiting}), of "
        f"{prediction.usable_bytes / _GIB:.1f} usable: "
        f"{'fits' if prediction.fits else 'does not fit'}",
        "micro-batch": "none fits" if largest is None else f"{largest} at the most",
        "step": f"{prediction.step.total:.3f} s, MFU {prediction.utilisation:.1%}",
        "updates": _updates(prediction),
        "evaluation": f"{prediction.evaluation_s:.1f} s for {run.num_evaluated:,} sequences"
        if run.evaluation_interval
        else "none",
        "checkpoint": f"{prediction.checkpoint_bytes / 1e9:,.1f} GB, written in "
        f"{prediction.checkpoint_s:.1f} s, of which training waits {prediction.stalled_s:.1f} s",
        "data": f"{_bytes_read(prediction) / 1e6:.2f} MB/s over all ranks, read ahead of its use",
        "run": f"{run.steps:,} steps, {prediction.tokens_per_s:,.0f} tokens/s, "
        f"{prediction.days:.2f} days",
    }


def _bytes_read(prediction: Prediction) -> float:
    """Return the bytes of shards that training reads per second."""
    size = 2 if prediction.run.workload.decoder.vocabulary_size < 65_536 else 4
    return prediction.tokens_per_s * size


def _updates(prediction: Prediction) -> str:
    measuring, update = prediction.run.measuring, prediction.update
    if measuring is None or update is None:
        return "no alignments are measured"
    return (
        f"{measuring.num_updates:,}, every {measuring.interval} steps, {update.total:.3f} s each: "
        f"{prediction.overhead:.2%} of training ({_described(measuring.probe)}, "
        f"{measuring.num_measured:,} domains or distributions)"
    )


def _described(probe: Probe) -> str:
    if isinstance(probe, Sharded):
        return "sharded"
    direction = "full" if probe.direction == "full" else f"rank {probe.direction.most}"
    return f"{probe.type.replace('_', ' ')}, {direction}"


def _memory(prediction: Prediction) -> Iterator[str]:
    memory = prediction.memory
    rows = [("memory of a rank", "GiB", "")]
    rows += [(name, _gib(size), "always") for name, size in memory.resident.items()]
    rows += [(name, _gib(size), "comes and goes") for name, size in memory.parts.items()]
    rows += [(name, _gib(size), "all together") for name, size in memory.moments.items()]
    yield from _table(rows)


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"


def _step_parts(prediction: Prediction) -> dict[str, float]:
    step = prediction.step
    return {
        "forward": step.forward,
        "backward": step.backward,
        "gradients into buckets": step.reduction,
        "optimizer": step.optimizer,
        "communication": step.communication,
        "communication exposed": step.exposed,
        "slowed by hidden communication": step.slowed,
    }


def _seconds(prediction: Prediction) -> Iterator[str]:
    rows = [("seconds of a step", "s", "")]
    rows += [
        (name, f"{value:.4f}", "hidden or not" if name == "communication" else "")
        for name, value in _step_parts(prediction).items()
    ]
    if (update := prediction.update) is not None:
        rows.append(("seconds of an update", "s", ""))
        rows += [(name, f"{value:.4f}", "") for name, value in update.parts.items()]
    yield from _table(rows)


def _communication(prediction: Prediction) -> Iterator[str]:
    traffic, workload = prediction.traffic, prediction.run.workload
    rows = [("sent by a rank", "GB", "")]
    for when, collectives in (
        ("forward pass", traffic.forward),
        ("backward pass", traffic.backward),
        ("once a step", traffic.once),
    ):
        rows += [
            (f"{each.what}, {each.operation}", f"{each.sent(workload.ranks) / 1e9:.3f}", when)
            for each in collectives
        ]
    rows.append(("a whole step", f"{prediction.step_sent / 1e9:.3f}", ""))
    if prediction.update is not None:
        rows.append(("an update", f"{prediction.update_sent / 1e9:.3f}", "with a new direction"))
    yield from _table(rows)


def _constants(constants: Constants) -> Iterator[str]:
    rows = [("constant", "value", "origin")]
    rows += [(name, f"{value:.4g}", origin) for name, value, origin in as_rows(constants)]
    yield from _table(rows)


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    align = ("left", *("right",) * (len(rows[0]) - 2), "left")
    if len(rows[0]) > 3:
        align = ("right",) * len(rows[0])
    table = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    yield from table.split("\n")
