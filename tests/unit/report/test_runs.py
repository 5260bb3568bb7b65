import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.runs import read_run
from megadga.train.domain_log import DomainLogFile

CONFIG = """\
seed: 3
model: {type: llama, sequence_length: 8}
training: {steps: 10, global_batch_size: 4}
"""


def write_folder(folder: Path, *records: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def start(**weights: float) -> dict[str, Any]:
    return {"type": "event", "step": 0, "event": "start", "averaged_weights": weights}


def train(step: int, counts: dict[str, int], losses: dict[str, float]) -> dict[str, Any]:
    record = {"loss": 2.0, "learning_rate": 0.1, "grad_norm": None, "tokens_per_s": 8.0}
    by_domain = {"sequences_by_domain": counts, "loss_by_domain": losses}
    return {"type": "train", "step": step, **record, **by_domain}


def evaluation(step: int, **losses: float) -> dict[str, Any]:
    of_sets = {"specific": {"qa": sum(losses.values())}, "general": np.mean([*losses.values()])}
    return {"type": "evaluation", "step": step, **of_sets, "domains": losses}


def test_a_run_with_fixed_weights_is_read_whole(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "uniform",
        start(a=0.5, b=0.5),
        train(1, {"a": 1, "b": 3}, {"a": 4.0, "b": 2.0}),
        train(2, {"a": 3, "b": 1}, {"a": 8.0, "b": 2.0}),
        evaluation(2, a=1.0, b=3.0),
        train(3, {"b": 4}, {"b": 6.0}),
    )

    run = read_run(folder)

    assert (run.name, run.seed, run.last_step, run.total_steps) == ("uniform", 3, 3, 10)
    assert run.tokens_per_step == 32
    assert run.train.loss.tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(run.train.gradient_norm).all()
    assert np.isnan(run.train.flops_utilisation).all()
    assert run.specific.of("qa").tolist() == [4.0]
    assert run.general.values.tolist() == [[2.0]]
    assert run.domains.names == ("a", "b")
    assert run.trained.steps.tolist() == [2, 3]
    np.testing.assert_array_equal(run.trained.values, [[7.0, 2.0], [np.nan, 6.0]])
    np.testing.assert_array_equal(run.sequences.values, [[4.0, 4.0], [np.nan, 4.0]])
    assert run.weights.weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert not run.alignments
    assert run.updates.steps.size == run.epochs.steps.size == 0
    assert [event.kind for event in run.events] == ["start"]


def test_updates_in_summary_are_updates(tmp_path: Path) -> None:
    update = {"type": "update", "step": 1, "averaged_weights": {"a": 1.0}, "epochs": {"a": 0.5}}
    summary = {"type": "update_summary", "step": 2, "probe_s": 0.5, "effective_domains": 1.0}
    run = read_run(write_folder(tmp_path / "run", start(a=1.0), update, summary))
    assert run.updates.steps.tolist() == [1, 2]
    np.testing.assert_array_equal(run.updates.probe_s, [np.nan, 0.5])
    assert run.epochs.values.tolist() == [[0.5]]


def test_passes_over_domains_are_those_of_updates_and_evaluations(tmp_path: Path) -> None:
    update = {"type": "update", "step": 1, "averaged_weights": {"a": 1.0}, "epochs": {"a": 0.5}}
    evaluated = [{**evaluation(step, a=1.0), "epochs": {"a": step * 0.75}} for step in (1, 2)]
    run = read_run(write_folder(tmp_path / "run", start(a=1.0), update, *evaluated))
    assert run.epochs.steps.tolist() == [1, 2]
    assert run.epochs.values.tolist() == [[0.75], [1.5]]


def test_a_run_that_has_only_started_is_empty(tmp_path: Path) -> None:
    run = read_run(write_folder(tmp_path / "run", start(a=1.0)))
    assert run.last_step == 0
    assert run.trained.values.shape == (0, 0)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run's output folder, found none"):
        read_run(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_run(tmp_path)


def test_values_that_the_metrics_leave_out_are_those_of_the_log_by_domain(tmp_path: Path) -> None:
    update = {"alignments": {"a": 1.0, "b": 2.0}, "standard_errors": {"a": 0.5, "b": 0.25}}
    weights = {"averaged_weights": {"a": 0.25, "b": 0.75}, "epochs": {"a": 0.5, "b": 1.0}}
    first = {"type": "update", "step": 1, **update, **weights}
    summary = {"type": "update_summary", "step": 2, "effective_domains": 1.5}
    whole = evaluation(1, a=1.0, b=3.0)
    thinned = {**evaluation(2, a=2.0, b=4.0), "domains": {}}
    folder = write_folder(tmp_path / "run", start(a=0.5, b=0.5), first, whole, summary, thinned)
    log = DomainLogFile(folder / "by_domain.log")
    log.log(0, {"event": {"event": "start", **start(a=0.5, b=0.5)}})
    later = {"alignments": {"a": 3.0, "b": 4.0}, "averaged_weights": {"a": 0.1, "b": 0.9}}
    log.log(1, {"update": first, "evaluation": whole})
    log.log(2, {"update": {**later, "epochs": {"a": 1.0, "b": 2.0}}})
    log.log(2, {"evaluation": evaluation(2, a=2.0, b=4.0)})

    run = read_run(folder)

    assert run.weights.steps.tolist() == [0, 1, 2]
    assert run.weights.weights.tolist() == [[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]]
    (history,) = run.alignments.values()
    assert history.steps.tolist() == [1, 2]
    assert history.alignments.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    np.testing.assert_array_equal(history.standard_errors, [[0.5, 0.25], [np.nan, np.nan]])
    assert run.epochs.values.tolist() == [[0.5, 1.0], [1.0, 2.0]]
    assert run.domains.values.tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_the_time_of_a_step_is_divided_with_what_it_waited_for_a_checkpoint(
    tmp_path: Path,
) -> None:
    first = {**train(1, {"a": 4}, {"a": 2.0}), "seconds": {"data": 0.5, "optimizer": 1.0}}
    second = {**train(2, {"a": 4}, {"a": 2.0}), "seconds": {"data": 0.25, "probe": 3.0}}
    written = {"type": "checkpoint", "step": 2, "seconds": 9.0, "waited_s": 4.0}
    run = read_run(write_folder(tmp_path / "run", start(a=1.0), first, second, written))
    assert {kind: spent.tolist() for kind, spent in run.train.seconds.items()} == {
        "data": [0.5, 0.25],
        "optimizer": [1.0, 0.0],
        "probe": [0.0, 3.0],
        "checkpoint": [0.0, 4.0],
    }
