import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.launch.hosts import Host
from megadga.launch.options import LaunchRequest
from megadga.launch.plan import Plan, launch, timeouts_for
from megadga.launch.supervision import Command
from megadga.run_folder.checkpoints import CheckpointHeader, mark_latest, write_header
from megadga.run_folder.markers import RunMarkers
from tests.support.runs import write_run

REQUEST = LaunchRequest(Path("run.yaml"), hostfile=Path("hosts"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


def planned(program: str, *, ranks: int = 2, port: int | None = None):
    def plan(_config):
        command = Command((sys.executable, "-c", program), os.environ, Path.cwd())
        hosts = (Host("a", ranks),)
        return Plan((command,), hosts, timeouts_for(REQUEST, end_s=1.0), port=port)

    return plan


def test_a_finished_run_is_not_started(folder, capsys):
    RunMarkers(load_config(Path("run.yaml"), []), writes=True).end(10, finished=True)
    assert launch(REQUEST, planned("open('started', 'w')")) == 0
    assert capsys.readouterr().out == "out: finished after step 10; nothing is left to train\n"
    assert not (folder / "started").exists()


def write_checkpoints(config):
    folder = config.output / "checkpoints"
    for step in (5, 10):
        checkpoint = folder / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        write_header(checkpoint, CheckpointHeader(step, 0, config.identity(), files={}))
        mark_latest(checkpoint)
    return folder / "latest"


def test_a_finished_run_goes_back_once_and_is_started(folder):
    config = load_config(Path("run.yaml"), [])
    RunMarkers(config, writes=True).end(10, finished=True)
    latest = write_checkpoints(config)
    request = replace(REQUEST, resume_from="step-00000005")

    assert launch(request, planned("open('started', 'w'); raise SystemExit(7)")) == 7
    assert (folder / "started").exists()
    assert latest.read_text() == "step-00000005"
    assert not (folder / "out" / "DONE").exists()
    assert "--from" not in request.train()


def test_what_cannot_be_gone_back_to_starts_nothing(folder, capsys):
    latest = write_checkpoints(load_config(Path("run.yaml"), []))

    request = replace(REQUEST, resume_from="step-00000007")

    assert launch(request, planned("open('started', 'w')")) == 2
    assert "--from: expected a checkpoint in out/checkpoints" in capsys.readouterr().err
    assert latest.read_text() == "step-00000010"
    assert not (folder / "started").exists()


def test_hosts_that_fail_the_preflight_are_reported_and_nothing_starts(folder, capsys):
    seen = []

    def preflight(hosts, *, output, port):
        seen.append((hosts, output, port))
        return ["a: no route", "b: no space"]

    plan = planned("open('started', 'w')", port=29500)
    assert launch(REQUEST, plan, preflight=preflight) == 2
    assert seen == [((Host("a", 2),), folder / "out", 29500)]
    assert capsys.readouterr().err == "a: no route\nb: no space\n"
    assert not (folder / "started").exists()


def test_ranks_that_cannot_share_the_batch_are_refused(folder, capsys):
    assert launch(REQUEST, planned("open('started', 'w')", ranks=3)) == 2
    assert "a multiple of training.micro_batch_size x ranks (2 x 3)" in capsys.readouterr().err
    assert not (folder / "started").exists()


@pytest.mark.parametrize(("code", "marker", "found"), [(7, None, 7), (1, "REQUEUE", 75)])
def test_whether_a_run_was_stopped_is_known_by_its_marker(code, marker, found):
    program = f"open('out/{marker}', 'w'); " if marker else ""
    assert launch(REQUEST, planned(f"{program}raise SystemExit({code})")) == found


def test_a_marker_of_an_earlier_start_says_nothing_about_this_one(folder):
    (folder / "out" / "REQUEUE").touch()
    assert launch(REQUEST, planned("raise SystemExit(7)")) == 7
    assert (folder / "out" / "REQUEUE").exists()


def test_whether_a_run_is_finished_is_known_by_its_marker(folder):
    assert launch(REQUEST, planned("pass")) == 1
    config = load_config(Path("run.yaml"), [])
    RunMarkers(config, writes=True).end(10, finished=True)
    (folder / "out" / "DONE").rename(folder / "done")
    assert launch(REQUEST, planned("import os; os.rename('done', 'out/DONE')")) == 0
    assert [path.name for path in (folder / "out").iterdir()] == ["DONE"]


def test_a_run_is_asked_to_save_before_its_time_is_over():
    timeouts = timeouts_for(LaunchRequest(Path("x"), time_s=600, save_s=90), end_s=3.0)
    assert (timeouts.limit_s, timeouts.stop_s, timeouts.end_s) == (510.0, 90.0, 3.0)
    assert timeouts_for(REQUEST, end_s=3.0).limit_s is None
