"""Continued pretraining of a small model, and fine-tuning: the runs, and the table of results."""

from pathlib import Path

import pytest

from megadga.config.loading import load_config
from tests.support.ranks import REPOSITORY
from tools.trials.evidence_continued import (
    BASE,
    BASE_SEEDS,
    RULES,
    ContinuedResult,
    ContinuedRun,
    Stage,
    continued_table,
    finished_continued,
    model_folder,
    planned_stages,
    read_continued,
    write_continued,
)

TARGETS = ["pubmedqa", "licenses"]


def result(
    stage: Stage, rule: str, seed: int, loss: float, general: float | None = None
) -> ContinuedResult:
    run = ContinuedRun(stage, rule, "pubmedqa", seed)
    return ContinuedResult(run, "pubmedqa", {20: 9.0, 40: loss}, general)


RESULTS = [
    result("base", BASE, 0, 6.0, general=5.5),
    result("continued", "uniform", 0, 5.75, general=5.25),
    result("continued", "uniform", 1, 5.25, general=5.0),
    result("continued", "dga", 0, 5.25, general=5.5),
    result("continued", "dga", 1, 5.0, general=5.25),
    result("tuned", BASE, 0, 5.5),
    result("tuned", "uniform", 0, 5.25),
    result("tuned", "dga", 0, 5.0),
]


def test_losses_after_both_stages_are_compared_with_uniform_weights_of_the_same_seeds():
    lines = continued_table(RESULTS).splitlines()[2:]
    before, uniform, dga = ([cell.strip() for cell in each.split("|")[1:-1]] for each in lines)
    assert before == ["`pubmedqa`", "before", "6.000", "5.500 (-0.250)", "5.500"]
    assert uniform == ["`pubmedqa`", "`uniform`", "5.500", "5.250", "5.125"]
    # 0.5 and 0.25 after continuing; one seed was fine-tuned.
    gained = "5.125 (+0.375 ± 0.125)"
    assert dga == ["`pubmedqa`", "`dga`", gained, "5.000 (+0.250)", "5.375"]


def test_what_does_not_depend_on_the_target_is_trained_once():
    base, continued, tuned = planned_stages([0, 1], RULES, TARGETS)
    assert len(base) == 2
    assert sum(each.rule == "uniform" for each in continued) == 2
    assert sum(each.rule == "dga" for each in continued) == 2 * len(TARGETS)
    assert sum(each.rule == "uniform" for each in tuned) == 2 * len(TARGETS)


def test_every_stage_starts_from_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    base, continued, tuned = planned_stages([0], RULES, TARGETS)
    seeds = {load(each).seed for each in base}
    assert seeds == {BASE_SEEDS}  # what goes on with seed 0 draws other sequences
    assert {start(each) for each in continued} == {model_folder(0)}
    folders = {each.run(TARGETS).folder for each in continued} | {model_folder(0)}
    assert {start(each) for each in tuned} == folders


def load(each: ContinuedRun):
    run = each.run(TARGETS)
    config = load_config(run.path, run.settings)
    assert config.output == run.folder
    return config


def start(each: ContinuedRun) -> Path | None:
    return load(each).model.initial_weights


def test_results_are_written_and_read_again(tmp_path):
    write_continued(tmp_path / "continued.json", RESULTS)
    found = read_continued(tmp_path / "continued.json")
    assert sorted(found, key=repr) == sorted(RESULTS, key=repr)


def test_what_is_not_finished_has_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, _, _ = planned_stages([0], RULES, TARGETS)
    assert finished_continued(base, TARGETS) == []
