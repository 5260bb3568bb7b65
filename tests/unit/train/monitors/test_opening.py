"""What keeps monitors from being opened is known before training."""

from types import SimpleNamespace
from typing import Any

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from megadga.train.monitors import opening
from megadga.train.monitors.opening import check_packages, open_monitors
from megadga.train.monitors.values import RecordValues
from tests.support.runs import write_run

NONE = SimpleNamespace(monitor=SimpleNamespace(enabled=False))


def config_of(folder, *overrides):
    return load_config(write_run(folder), ["output=" + str(folder), *overrides])


def opened(config: Any, *, step: int, engine: Any = NONE) -> Any:
    values = RecordValues({}, windows=dict, global_batch_size=8)
    return open_monitors(config, values, engine=engine, step=step, abandoned=0)


@pytest.mark.parametrize(
    ("override", "place", "package"),
    [
        ("monitor.wandb={offline: true}", "monitor.wandb", "wandb"),
        ("monitor.tensorboard={}", "monitor.tensorboard", "tensorboard"),
        ("monitor.comet={}", "monitor.comet", "comet_ml"),
        ("deepspeed.tensorboard={enabled: true}", "deepspeed.tensorboard", "tensorboard"),
    ],
)
def test_a_package_that_is_missing_is_one_line(tmp_path, monkeypatch, override, place, package):
    config = config_of(tmp_path, override)
    check_packages(config)
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == package else name)

    with pytest.raises(ConfigError) as raised:
        check_packages(config)

    assert str(raised.value).endswith(
        f"{place}: expected the package {package}: pip install 'megadga[monitors]', "
        "found none installed"
    )
    assert "\n" not in str(raised.value)


def test_a_service_belongs_to_deepspeed_or_to_the_run(tmp_path):
    with pytest.raises(ConfigError, match=r"monitor.wandb: expected null beside the block wandb"):
        config_of(tmp_path, "monitor.wandb={}", "deepspeed.wandb={enabled: true}")


def test_a_new_run_whose_monitor_cannot_be_opened_does_not_start(tmp_path):
    (tmp_path / "csv").touch()
    config = config_of(tmp_path, "monitor.csv={}")

    with pytest.raises(ConfigError, match=r"monitor.csv: expected a monitor that can be opened"):
        opened(config, step=0)


def test_a_run_that_goes_on_does_so_without_a_monitor_that_cannot_be_opened(tmp_path):
    (tmp_path / "csv").touch()
    monitors = opened(config_of(tmp_path, "monitor.csv={}"), step=5)

    (event,) = monitors.take_events()
    assert (event["event"], event["monitor"]) == ("monitor_failed", "csv")
    monitors.log(6, {"train": {"loss": 1.0}})


def test_monitors_of_deepspeeds_settings_get_numbers_over_samples(tmp_path):
    written: list[Any] = []
    master = SimpleNamespace(enabled=True, write_events=written.extend)

    monitors = opened(config_of(tmp_path), step=0, engine=SimpleNamespace(monitor=master))
    monitors.log(3, {"train": {"loss": 1.5}})

    assert written == [("train/loss", 1.5, 24)]
