import json

import pytest

from megadga.demo.summary import DomainSize, RunSummary, render_comparison, summarise_run, table
from megadga.errors import ConfigError


def write(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


START = {
    "type": "event",
    "step": 0,
    "event": "start",
    "averaged_weights": {"a": 0.5, "b": 0.5},
}


def evaluation(step, loss):
    return {
        "type": "evaluation",
        "step": step,
        "specific": {"target": loss},
        "domains": {"a": 3.0, "b": 5.0},
        "general": 4.0,
    }


def test_a_table_has_names_to_the_left_and_numbers_to_the_right():
    assert table([("name", "n"), ("a", "10"), ("long name", "1,000")]) == [
        "name           n",
        "----------------",
        "a             10",
        "long name  1,000",
    ]


def test_a_summary_has_the_last_evaluation_and_all_sequences(tmp_path):
    metrics = write(
        tmp_path / "m.jsonl",
        START,
        {"type": "train", "step": 1, "sequences_by_domain": {"a": 3, "b": 1}},
        evaluation(1, 9.0),
        {"type": "train", "step": 2, "sequences_by_domain": {"a": 4}},
        {"type": "update", "step": 2, "averaged_weights": {"a": 0.75, "b": 0.25}},
        evaluation(2, 2.5),
    )
    assert summarise_run(metrics, "target") == RunSummary(
        sequences={"a": 7, "b": 1},
        specific_loss=2.5,
        general_loss=4.0,
        first_weights={"a": 0.5, "b": 0.5},
        last_weights={"a": 0.75, "b": 0.25},
    )


def test_fixed_weights_are_the_last_as_the_first(tmp_path):
    found = summarise_run(write(tmp_path / "m.jsonl", START, evaluation(2, 2.5)), "target")
    assert found.last_weights == found.first_weights == {"a": 0.5, "b": 0.5}


def test_a_run_that_does_not_tell_its_first_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"m\.jsonl: expected an event start, found none"):
        summarise_run(write(tmp_path / "m.jsonl", evaluation(2, 2.5)), "target")


def test_a_run_that_was_not_evaluated_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"m\.jsonl: expected an evaluation of target"):
        summarise_run(write(tmp_path / "m.jsonl"), "target")
    with pytest.raises(ConfigError, match=r"m\.jsonl: expected an evaluation of other"):
        summarise_run(write(tmp_path / "m.jsonl", evaluation(2, 2.5)), "other")


def test_the_comparison_has_one_row_per_domain_and_both_losses():
    domains = {"a": DomainSize(1_281, 10), "b": DomainSize(12_801, 100)}
    equal = {"a": 0.5, "b": 0.5}
    dga = RunSummary({"a": 5, "b": 150}, 2.0, 4.5, {"a": 0.25, "b": 0.75}, {"a": 0.1, "b": 0.9})
    uniform = RunSummary({"a": 80, "b": 75}, 2.5, 4.0, equal, equal)
    assert render_comparison(domains, dga, uniform) == [
        "domain  tokens  first weight  last weight  epochs dga  epochs uniform",
        "---------------------------------------------------------------------",
        "b       12,801         0.750        0.900        1.50            0.75",
        "a        1,281         0.250        0.100        0.50            8.00",
        "",
        "validation loss, nats per token     dga  uniform  difference",
        "------------------------------------------------------------",
        "specific set                     2.0000   2.5000     -0.5000",
        "mean of the domains              4.5000   4.0000     +0.5000",
        "",
        "Perplexity of the specific set: 0.607 of uniform's.",
    ]
