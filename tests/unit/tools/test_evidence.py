"""Results of runs, their tables, and the pages that have them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError, MegadgaError
from tests.support.ranks import REPOSITORY
from tools.report_evidence import PAGES, RECORDS
from tools.trials.evidence_figure import COLOURS, draw, draw_bargain
from tools.trials.evidence_report import Evidence, read_evidence, rebuilt
from tools.trials.evidence_results import (
    HELD_BACK,
    TARGETS,
    TOKENS,
    Result,
    cost,
    cost_table,
    gain,
    gain_table,
    general_table,
    read_record,
    read_results,
    sensitivity_table,
    write_record,
)
from tools.trials.evidence_runs import (
    RULES,
    EvidenceRun,
    larger_runs,
    planned_targets,
    quick_runs,
    recorded_runs,
    sensitivity_runs,
    train_all,
)


def result(rule: str, seed: int, *losses: float, **more: Any) -> Result:
    found: dict[str, Any] = {
        "rule": rule,
        "tokens": "20k",
        "target": "pubmedqa",
        "seed": seed,
        "losses": dict(zip((50, 100, 150), losses, strict=False)),
        "general": None,
        "epochs": None,
        "predicted_overhead": None,
        "observed_overhead": None,
    }
    return Result(**{**found, **more})


RESULTS = [
    result("uniform", 0, 6.0, 5.0),
    result("uniform", 1, 6.0, 5.2),
    result("uniform", 2, 6.0, 5.4),
    result("dga", 0, 6.0, 4.8, 4.9),
    result("dga", 1, 6.0, 4.7, epochs=3.26, predicted_overhead=0.01, observed_overhead=0.02),
    result("dga", 3, 6.0, 1.0),  # there is no uniform run of this seed
    result("odm", 0, 6.0, 5.5),
]
EVIDENCE = Evidence(targets=RESULTS, larger=RESULTS[:1], clusters=[], continued=[])


def rows(table: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [cells[0], *cells[2:]]


def test_a_gain_is_of_the_seeds_that_both_were_trained_with():
    found = gain(RESULTS, "dga", "20k", "pubmedqa")
    assert found is not None
    assert found.seeds == 2
    assert found.mean == pytest.approx((0.1 + 0.5) / 2)
    assert found.standard_error == pytest.approx(0.2)  # 0.4 / sqrt(2) / sqrt(2)
    assert str(found) == "+0.300 ± 0.200"


def test_a_gain_of_one_seed_has_no_standard_error():
    assert str(gain(RESULTS, "odm", "20k", "pubmedqa")) == "-0.500"
    assert gain(RESULTS, "odm", "all", "pubmedqa") is None
    assert gain(RESULTS, "doge", "20k", "pubmedqa") is None


def test_a_table_has_a_line_a_target_and_how_far_dga_rose():
    titles, line = rows(gain_table(RESULTS, "20k"))
    assert titles == ["target", "uniform", "`dga`", "`odm`", "`dga`: largest rise above its best"]
    assert line == ["`pubmedqa`", "5.200", "+0.300 ± 0.200", "-0.500", "0.100"]


def test_targets_that_were_held_back_have_a_table_of_their_own_with_the_rules_they_had():
    kept = [
        result("uniform", 0, 6.0, target="mmlu_stem"),
        result("dga", 0, 5.75, target="mmlu_stem"),
        *RESULTS,
    ]
    titles, line = rows(gain_table(kept, "20k", HELD_BACK))
    assert titles == ["target", "uniform", "`dga`", "`dga`: largest rise above its best"]
    assert line == ["`mmlu_stem`", "6.000", "+0.250", "0.000"]
    assert gain_table(kept, "20k") == gain_table(RESULTS, "20k")


def test_a_changed_setting_has_gains_of_its_own_and_none_in_other_tables():
    changed = [result("dga", 0, 6.0, 4.6, setting="step_size 6"), *RESULTS]
    titles, default, line = rows(sensitivity_table(changed))
    assert titles == ["setting", "`pubmedqa`, 20k"]
    assert default == ["default", "+0.100"]  # of the same seed
    assert line == ["`step_size 6`", "+0.400"]
    assert gain_table(changed, "20k") == gain_table(RESULTS, "20k")
    assert cost_table(changed) == cost_table(RESULTS)


def test_costs_are_of_runs_with_updates():
    _, line = rows(cost_table(RESULTS))
    # Uniform weights fell by at most 1.0 in 50 of 100 steps: 0.04 in 2 % of the run.
    assert line == ["`dga`", "20k", "1.0 %, 2.0 %", "3.3", "0.0400"]


def test_the_general_loss_is_compared_where_domains_were_evaluated():
    of_all = [
        result("uniform", 0, 5.0, tokens="all", general=5.5),
        result("dga", 0, 4.0, tokens="all", general=5.75),
        result("dga", 1, 4.0, tokens="all", general=9.0),
    ]
    titles, line = rows(general_table([*RESULTS, *of_all]))
    assert titles == ["target", "uniform", "`dga`"]
    assert line == ["`pubmedqa`", "5.500", "5.750 (+0.250)"]


def test_a_cost_is_of_the_seeds_that_both_were_trained_with():
    of_all = [
        result("uniform", 0, 5.0, tokens="all", general=5.5),
        result("uniform", 1, 5.0, tokens="all", general=5.0),
        result("dga", 0, 4.0, tokens="all", general=5.75),
        result("dga", 1, 4.0, tokens="all", general=5.75),
        result("dga", 2, 4.0, tokens="all", general=9.0),
        result("dga", 0, 4.0, tokens="all", general=6.5, setting="step_size 3"),
    ]
    assert str(cost(of_all, "dga", "pubmedqa")) == "+0.500 ± 0.250"
    assert str(cost(of_all, "dga", "pubmedqa", "step_size 3")) == "+1.000"
    assert cost(of_all, "odm", "pubmedqa") is None


def test_results_are_read_from_a_run_and_written_and_read_again(tmp_path):
    records = [
        {"type": "evaluation", "step": 50, "specific": {"a": 6.0, "b": 7.0}, "general": None},
        {**update(10, share=0.5), "epochs": {"d": 0.5}},
        {**update(60, share=0.02), "epochs": {"d": 1.5, "e": 2.125}},
        {**update(80, share=0.04), "epochs": {"d": 1.5, "e": 2.5}},
        {"type": "evaluation", "step": 100, "specific": {"a": 5.0, "b": 6.0}, "general": 4.25},
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))

    found = list(read_results(metrics, rule="dga", tokens="all", seed=3))

    assert [each.target for each in found] == ["a", "b"]
    assert found[0].losses == {50: 6.0, 100: 5.0}
    assert (found[0].end, found[0].rise, found[0].general) == (5.0, 0.0, 4.25)
    assert found[0].epochs == 2.5
    # A second in 50 and one in 25: two in 75. The first tenth of the run is left out.
    assert (found[0].predicted_overhead, found[0].observed_overhead) == (0.01, 0.0267)
    write_record(tmp_path / "record.json", found)
    assert read_record(tmp_path / "record.json") == found


def update(step: int, *, share: float) -> dict[str, Any]:
    cost = {"predicted_overhead": 0.01, "observed_overhead": share, "probe_s": 1.0}
    return {"type": "update", "step": step, **cost}


@pytest.mark.parametrize("text", ["{", "[3]", '[{"rule": "dga"}]', "{}["])
def test_a_file_that_is_no_record_is_refused_by_name(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"record\.json: expected results of runs, found"):
        read_record(path)


def test_pages_that_name_no_table_or_one_that_there_is_not_are_refused():
    with pytest.raises(ConfigError, match=r"page\.md: expected a line '<!-- evidence: NAME -->'"):
        rebuilt("text", EVIDENCE, name="page.md")
    with pytest.raises(ConfigError, match=r"page\.md: expected one of .*, found 'gians'"):
        rebuilt("<!-- evidence: gians -->\n<!-- end of evidence -->", EVIDENCE, name="page.md")


def test_what_stands_around_a_table_stays():
    text = "before\n<!-- evidence: gains 20k -->\nold\n<!-- end of evidence -->\nafter\n"
    once = rebuilt(text, EVIDENCE, name="page.md")
    assert once.startswith("before\n<!-- evidence: gains 20k -->\n\n| target")
    assert once.endswith("|\n\n<!-- end of evidence -->\nafter\n")
    assert "old" not in once
    assert rebuilt(once, EVIDENCE, name="page.md") == once


def test_larger_models_have_tables_of_their_own():
    place = "<!-- evidence: {} -->\n<!-- end of evidence -->\n"
    found = rebuilt(place.format("larger 20k"), EVIDENCE, name="page.md")
    assert "| target     |   uniform |" in found
    assert "dga`:" in found
    assert "| `pubmedqa` |     5.000 |" in found
    assert "`odm`" not in found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_say_what_the_results_say(page):
    text = page.read_text()
    assert rebuilt(text, read_evidence(RECORDS), name=page.name) == text


def test_the_figure_of_the_documentation_can_be_drawn_again(tmp_path):
    results = read_evidence(RECORDS).targets
    draw(results, tmp_path / "evidence.svg")
    assert "<svg" in (tmp_path / "evidence.svg").read_text()
    draw_bargain(results, tmp_path / "bargain.svg")
    text = (tmp_path / "bargain.svg").read_text()
    assert all(f">{name}</text>" in text for name in (*TARGETS, "dga", "importance"))


def test_every_rule_has_a_colour_of_its_own():
    assert COLOURS.keys() == RULES.keys() - {"uniform"}
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_every_planned_run_is_one_that_loads(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    runs = [
        *planned_targets([0, 1], TOKENS, list(RULES), ["licenses"]),
        *sensitivity_runs([0], TOKENS, ["licenses"]),
        *larger_runs(planned_targets([0], TOKENS, list(RULES), ["licenses"])),
        *quick_runs(),
    ]
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        config = load_config(run.path, run.settings)
        assert config.output == Path(run.folder)
        assert config.seed == run.seed


def test_recorded_runs_are_those_that_results_are_of_once_each():
    results = [
        result("uniform", 1, 6.0),
        result("uniform", 1, 6.0, target="licenses"),  # the same run
        result("dga", 0, 6.0, target="licenses", tokens="all"),
        result("dga", 0, 6.0, setting="step_size 3"),
    ]
    changed = sensitivity_runs([0], ["20k"], ["pubmedqa"])
    assert recorded_runs(results) == [
        *planned_targets([0], ["all"], ["dga"], ["licenses"]),
        *(run for run in changed if run.setting == "step_size 3"),
        *planned_targets([1], ["20k"], ["uniform"], []),
    ]


@pytest.mark.parametrize("name", ["targets", "larger"])
def test_every_result_of_the_pages_is_of_a_run_that_there_is(name):
    results = getattr(read_evidence(RECORDS), name)
    runs = {(run.config, run.tokens, run.seed, run.setting) for run in recorded_runs(results)}
    assert runs == {(each.rule, each.tokens, each.seed, each.setting) for each in results}


def test_a_run_that_fails_ends_the_others_and_its_output_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs" / "evidence", tmp_path / "configs" / "evidence")
    run = EvidenceRun("targets", "uniform", 0, "20k uniform")
    log = run.folder / "output.log"
    lines: list[str] = []

    with pytest.raises(MegadgaError, match=f"^{log}: expected training to end with 0, found 2$"):
        train_all([run], jobs=1, report=lines.append)

    assert lines == ["0 of 1 runs are there"]
    assert "build/evidence/targets/domains" in log.read_text()  # which nobody has made
