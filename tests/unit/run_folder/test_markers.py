import pytest

from megadga.config.loading import load_config
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    checkpoint_path,
    latest_checkpoint,
    write_header,
)
from megadga.run_folder.markers import RunMarkers, finished_step, rewind_run
from megadga.run_folder.requests import Answer, RequestFolder
from tests.support.runs import write_run


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    (tmp_path / "out").mkdir()
    return lambda *overrides: load_config(tmp_path / "run.yaml", list(overrides))


def test_a_finished_run_is_recognised(load, tmp_path):
    config = load()
    assert finished_step(config) is None
    RunMarkers(config, writes=True).end(10, finished=True)
    assert finished_step(config) == 10
    assert finished_step(load("evaluation.interval=3")) == 10
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["DONE"]


@pytest.mark.parametrize("other", ["seed=18", "training.steps=11", "output=elsewhere"])
def test_another_runs_marker_is_ignored(load, other):
    RunMarkers(load(), writes=True).end(10, finished=True)
    assert finished_step(load(other)) is None


@pytest.mark.parametrize("text", ["", "{", "step 10"])
def test_a_damaged_marker_is_ignored(load, tmp_path, text):
    (tmp_path / "out" / "DONE").write_text(text)
    assert finished_step(load()) is None


def test_a_stopped_run_has_a_requeue_marker_until_restarted(load, tmp_path):
    markers = RunMarkers(load(), writes=True)
    markers.end(4, finished=False)
    assert (tmp_path / "out" / "REQUEUE").exists()
    assert finished_step(load()) is None
    markers.start()
    assert list((tmp_path / "out").iterdir()) == []


def test_one_rank_writes_for_all(load, tmp_path):
    RunMarkers(load(), writes=False).end(10, finished=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_that_is_sent_back_forgets_later_requests(load, tmp_path):
    config, requests = load(), RequestFolder(tmp_path / "out")
    for step in (4, 8):
        checkpoint = checkpoint_path(config.output / "checkpoints", step)
        checkpoint.mkdir(parents=True)
        write_header(checkpoint, CheckpointHeader(step, 0, {}, files={}))
        number = requests.submit("freeze", {})
        requests.take(number)
        requests.reply(number, Answer(step))

    rewind_run(config, "step-00000004")

    assert latest_checkpoint(config.output / "checkpoints") == checkpoint.with_name(
        "step-00000004"
    )
    assert [step for step, _ in requests.applied_after(0)] == [4]
    assert (tmp_path / "out/requests/000002.abandoned/answer.json").exists()
