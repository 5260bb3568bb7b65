import pytest

from megadga.config.loading import load_config
from megadga.config.run import differences
from megadga.errors import ConfigError
from tests.support.runs import write_run


def test_a_run_is_watched_and_warned_of_spikes_by_default(tmp_path):
    watch = load_config(write_run(tmp_path)).watch
    assert watch.loss_spike is not None
    assert watch.loss_spike.on_spike == "warn"
    assert watch.no_progress_minutes == 20.0


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("watch.loss_spike.on_spike=retry", "expected 'warn', 'skip', 'stop' or 'rewind'"),
        ("watch.loss_spike.window=7", "expected a number greater than or equal to 8, found 7"),
        ("watch.no_progress_minutes=0.0", "expected a number greater than 0, found 0.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, override, complaint):
    with pytest.raises(ConfigError) as told:
        load_config(write_run(tmp_path), [override])
    assert complaint in str(told.value)


def test_a_run_without_checkpoints_cannot_go_back(tmp_path):
    overrides = ["checkpoint=null", "watch.loss_spike.on_spike=rewind"]
    with pytest.raises(ConfigError) as told:
        load_config(write_run(tmp_path), overrides)
    assert str(told.value) == (
        "override 2: watch.loss_spike.on_spike: expected warn, skip or stop: without checkpoints "
        "there is none to go back to, found rewind"
    )


@pytest.mark.parametrize("override", ["watch.loss_spike=null", "watch.no_progress_minutes=null"])
def test_how_a_run_is_watched_may_change(tmp_path, override):
    path = write_run(tmp_path)
    before, after = load_config(path), load_config(path, [override])
    assert differences(before.identity(), after.identity()) == []
