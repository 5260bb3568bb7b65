"""Opens the monitors that a run is configured with, and finds out before what they lack."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from megadga.config.run import RunConfig
from megadga.train.monitors.comet import CometMonitor
from megadga.train.monitors.csv import CsvMonitor
from megadga.train.monitors.deepspeed import DeepSpeedMonitor
from megadga.train.monitors.identity import ServiceIdentity
from megadga.train.monitors.sink import Monitor, Monitors
from megadga.train.monitors.tensorboard import TensorBoardMonitor
from megadga.train.monitors.values import RecordValues
from megadga.train.monitors.wandb import WandbMonitor

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}
"""Package of each monitor that needs one."""


def check_packages(config: RunConfig) -> None:
    """Check that what the run's monitors need is installed, here.

    Raises:
        ConfigError: If not; one line that says how to install it.
    """
    for name, package in _PACKAGES.items():
        of_deepspeed = (config.deepspeed.get(name) or {}).get("enabled", False)
        if getattr(config.monitor, name) is None and not of_deepspeed:
            continue
        if find_spec(package) is None:
            key = ("deepspeed", name) if of_deepspeed else ("monitor", name)
            expected = f"the package {package}: pip install 'megadga[monitors]'"
            raise config.invalid(*key, expected=expected, found="none installed")


def open_monitors(
    config: RunConfig, values: RecordValues, *, engine: Any, step: int, abandoned: int
) -> Monitors:
    """Open a run's monitors, on the rank that logs.

    Of a new run each must open. Of one that goes on, one that does not is left out and an event:
    a service that is down for once does not keep it from training.

    Args:
        config: The run.
        values: Names the numbers.
        engine: DeepSpeed's, which may have monitors of its own.
        step: Optimizer steps completed; 0: the run is new.
        abandoned: The last step that was trained before and is trained again, at least 0.

    Raises:
        ConfigError: If a monitor of a new run cannot be opened.
    """
    opened: list[Monitor] = []
    failed: list[tuple[str, Exception]] = []
    for name, make in _configured(config, step=step, abandoned=abandoned):
        try:
            opened.append(make())
        except Exception as error:
            if step == 0:
                found = " ".join(f"{type(error).__name__}: {error}".split())
                expected = "a monitor that can be opened"
                raise config.invalid("monitor", name, expected=expected, found=found) from error
            failed.append((name, error))
    if engine.monitor.enabled:
        opened.append(
            DeepSpeedMonitor(engine.monitor, global_batch_size=config.training.global_batch_size)
        )
    monitors = Monitors(opened, values, every=config.monitor.every)
    for name, error in failed:
        monitors.report(name, error)
    return monitors


def _configured(
    config: RunConfig, *, step: int, abandoned: int
) -> Iterator[tuple[str, Callable[[], Monitor]]]:
    """Yield the name of each monitor that is configured, and what opens it."""
    section, output = config.monitor, config.output

    def identity(service: str) -> ServiceIdentity:
        return ServiceIdentity(output, service, step=step, abandoned=abandoned)

    if (board := section.tensorboard) is not None:
        folder = board.folder or output / "events"
        yield "tensorboard", lambda: TensorBoardMonitor(folder, step=step)
    if (table := section.csv) is not None:
        place = table.folder or output / "csv"
        yield "csv", lambda: CsvMonitor(place, step=step)
    values = config.model_dump(mode="json")
    if (wandb := section.wandb) is not None:
        yield (
            "wandb",
            lambda: WandbMonitor(wandb, config=values, folder=output, identity=identity("wandb")),
        )
    if (comet := section.comet) is not None:
        yield (
            "comet",
            lambda: CometMonitor(
                comet,
                config=values,
                folder=output / "comet",
                identity=identity("comet"),
                is_new=step == 0,
            ),
        )
