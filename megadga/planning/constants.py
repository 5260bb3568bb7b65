"""What a cluster reaches: rates that a prediction rests on, and where each is from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, final

from megadga.accelerators import Accelerator
from megadga.errors import ConfigError

Origin = Literal["assumed", "measured", "given"]


@final
@dataclass(frozen=True)
class Constant:
    """One number of a prediction.

    Attributes:
        value: In the units that its name says.
        origin: assumed: a share of what data sheets promise; measured: by `megadga
            calibrate`; given: by an option.
    """

    value: float
    origin: Origin = "assumed"


@final
@dataclass(frozen=True)
class Constants:
    """Rates of one device and its links.

    Attributes:
        matmul_flops: FLOP/s of large matrix products.
        attention_flops: FLOP/s of attention, of which half is masked and not counted.
        memory_bandwidth: Bytes per second of elementwise operations.
        seconds_per_operation: Start of an operation, which large ones hide.
        node_bandwidth: Bytes per second of a collective between devices of a node, per device.
        network_bandwidth: Bytes per second between nodes, per device.
        collective_latency_s: Start of a collective.
        overlap_cost: Share of a hidden collective's time that computation is slowed by, in [0, 1].
        factorization_s: QR of one matrix of thin factors, in seconds.
        draw_s: Drawing an update's sequences of one domain, on a core of the host, in seconds.
        storage_bandwidth: Bytes per second that all ranks together write to the file system.
    """

    matmul_flops: Constant
    attention_flops: Constant
    memory_bandwidth: Constant
    seconds_per_operation: Constant
    node_bandwidth: Constant
    network_bandwidth: Constant
    collective_latency_s: Constant
    overlap_cost: Constant
    factorization_s: Constant
    draw_s: Constant
    storage_bandwidth: Constant

    def with_values(self, values: Mapping[str, float], origin: Origin) -> "Constants":
        """Return the same with other values of some constants."""
        return replace(self, **{name: Constant(value, origin) for name, value in values.items()})


@final
@dataclass(frozen=True)
class _Reached:
    """Shares of an accelerator's published limits."""

    matmul: float
    attention: float
    memory: float


_REACHED: Mapping[str, _Reached] = {
    "a100": _Reached(matmul=0.76, attention=0.50, memory=0.42),
    "h100": _Reached(matmul=0.66, attention=0.23, memory=0.36),
    "h200": _Reached(matmul=0.74, attention=0.33, memory=0.62),
}
"""Of A100 and H100 as fitted to MosaicML's runs of 1b, 7b and 70b, of H200 as the kernels of one
training step of 350m took (docs/scale.md)."""


def assumed_constants(accelerator: Accelerator) -> Constants:
    """Return what is reached of an accelerator's published limits, by assumption.

    A100s and H100s as fitted to published runs, H200s as measured, all others as H100s. 0.8 of
    links; a collective starts in 30 us, as between tens of nodes.
    """
    generation = accelerator.name.partition("-")[0]
    reached = _REACHED.get(generation, _REACHED["h100"])
    return Constants(
        matmul_flops=Constant(reached.matmul * accelerator.peak_flops),
        attention_flops=Constant(reached.attention * accelerator.peak_flops),
        memory_bandwidth=Constant(reached.memory * accelerator.memory_bandwidth),
        seconds_per_operation=Constant(4e-6),
        node_bandwidth=Constant(0.8 * accelerator.node_bandwidth),
        network_bandwidth=Constant(0.8 * accelerator.network_bandwidth),
        collective_latency_s=Constant(30e-6),
        overlap_cost=Constant(0.55),
        factorization_s=Constant(1e-3),
        draw_s=Constant(1.5e-6),
        storage_bandwidth=Constant(10e9),
    )


def write_measured(path: Path, device: str, measured: Mapping[str, float]) -> None:
    """Write constants that were measured on a device, for `read_measured`."""
    path.write_text(json.dumps({"device": device, "measured": dict(measured)}, indent=2) + "\n")


@final
@dataclass(frozen=True)
class MeasuredConstants:
    """Constants of a file.

    Attributes:
        device: What they were measured on.
        values: By name, those of `Constants` that the file has.
    """

    device: str
    values: Mapping[str, float]


def read_measured(path: Path) -> MeasuredConstants:
    """Read what `megadga calibrate` has written, or the GPU kit's record.

    Raises:
        ConfigError: If the file is missing or is neither.
    """
    try:
        content: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected a file by `megadga calibrate`, found {error}"
        ) from None
    known = [field.name for field in fields(Constants)]
    record = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if "stages" in record:
        record = _of_gpu_record(record)
    device, measured = record.get("device"), record.get("measured")
    if not isinstance(device, str) or not isinstance(measured, dict):
        raise ConfigError(f"{path}: expected the keys device and measured, found others")
    values: dict[str, float] = {}
    for name, value in cast("dict[str, Any]", measured).items():
        if name not in known:
            raise ConfigError(f"{path}: measured: expected {', '.join(known)}, found {name}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{path}: measured.{name}: expected a number above 0, found {value}")
        values[name] = float(value)
    return MeasuredConstants(device, values)


def _of_gpu_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the GPU kit (``tools/gpu_check.py``) measured, as `write_measured` has it."""
    rows: list[dict[str, Any]] = record["stages"].get("constants", {}).get("rows", [])
    if not rows:
        return {}
    values = dict(rows[0])
    values.pop("check")
    return {"device": values.pop("device"), "measured": values}


def as_rows(constants: Constants) -> list[tuple[str, float, Origin]]:
    """Return every constant's name, value and origin."""
    found = {field.name: getattr(constants, field.name) for field in fields(Constants)}
    return [(name, each.value, each.origin) for name, each in found.items()]


def as_json(constants: Constants) -> dict[str, Any]:
    """Return every constant as JSON."""
    return asdict(constants)
