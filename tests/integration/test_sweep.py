"""A sweep of tiny proxies, stopped and continued; a law of its runs."""

import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from megadga.cli import main
from megadga.report.records import read_metrics
from megadga.sweep.config import load_sweep
from megadga.sweep.planning import plan_sweep, write_runs
from megadga.sweep.pool import Job, Process, Slots, Start
from megadga.sweep.training import sweep_table, train_sweep
from tests.support.ranks import rank_environment
from tests.support.runs import write_run
from tests.support.shards import write_sets
from tests.support.warm import WarmProcess

RUN = """\
output: proxy
model: {type: llama, preset: nano, sequence_length: 8}
data: {domains: domains, specific: {target: {path: specific}}}
mixing: {type: uniform}
training: {steps: 60, global_batch_size: 8, micro_batch_size: 8}
deepspeed: zero.json
evaluation: {interval: 30, sequences: 4}
checkpoint: null
"""
SWEEP = """\
run: run.yaml
output: swept
mixtures: {type: listed, weights: [uniform, {d0: 0.9, d1: 0.1}]}
"""
ONE_AT_A_TIME = Slots(({},))


@contextmanager
def warm_starts(folder: Path) -> Generator[Start]:
    with ExitStack() as stack:

        def start(job: Job, environment: Mapping[str, str]) -> Process:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, *job.arguments]
            process = WarmProcess(command, folder=folder, environment=environment, output=job.log)
            return stack.enter_context(process)

        yield start


def test_a_stopped_sweep_goes_on_with_what_is_left(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, RUN)
    write_sets(tmp_path, num_domains=2)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    runs = plan_sweep(load_sweep(tmp_path / "sweep.yaml")).runs
    write_runs(runs)
    lines: list[str] = []

    def second_trains() -> bool:
        metrics = runs[1].config.output / "metrics.jsonl"
        return metrics.exists() and len(read_metrics(metrics).of("train")) > 2

    with warm_starts(tmp_path) as start:
        train = partial(
            train_sweep,
            runs,
            ONE_AT_A_TIME,
            environment=rank_environment(),
            report=lines.append,
            start=start,
        )
        first = train(stop_requested=second_trains)
        assert first.stopped
        assert [run.name for run in first.finished] == ["m000-seed0"]
        assert lines[-1] == "m001-seed0: stopped, and saved"
        second = train(stop_requested=lambda: False)

    assert not second.stopped
    assert second.finished == runs
    steps = [
        [
            record["step"]
            for record in read_metrics(run.config.output / "metrics.jsonl").of("train")
        ]
        for run in runs
    ]
    assert steps == [list(range(1, 61))] * 2
    resumed = read_metrics(runs[1].config.output / "metrics.jsonl").events("resume")
    assert len(resumed) == 1
    assert resumed[0]["step"] > 2
    table = sweep_table(runs).splitlines()
    assert table[0].split() == [
        *("mixture", "loss", "(general)", "loss", "(target)", "d0", "d1"),
    ]
    assert sorted(line.split()[-2] for line in table[2:]) == ["0.500", "0.900"]

    folders = [str(run.config.output) for run in runs]
    assert main(["law", "fit", *folders, "--output", "law.json", "--law", "linear"]) == 0
    assert "linear law of 3 sets over 2 domains, fitted to 2 runs" in capsys.readouterr().out


def test_the_command_trains_and_a_run_that_fails_is_named_at_the_end(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, RUN)
    write_sets(tmp_path, num_domains=2)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == ("m001-seed0  to train  d0 0.900, d1 0.100")
    assert not (tmp_path / "swept").exists()
    # No Python: a program that fails at once.
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(["sweep", "sweep.yaml", "--jobs", "2"]) == 2
    out, err = capsys.readouterr()
    assert "m001-seed0: ended with 1" in out
    assert [line.rpartition(": ")[2] for line in err.splitlines()] == [
        "expected training to end with 0, found 1"
    ] * 2


@pytest.fixture(autouse=True)
def _no_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megadga.commands.sweep.count_devices", lambda: (2, "cores"))
