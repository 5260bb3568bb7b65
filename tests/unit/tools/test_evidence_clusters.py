"""Runs on many clusters with few examples: which there are, and tables of their results."""

from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from tests.support.ranks import REPOSITORY
from tools.trials.evidence_clusters import (
    EXAMPLES,
    RULES,
    ClusterResult,
    ClusterRun,
    clusters_table,
    finished_clusters,
    planned_clusters,
    read_clusters,
    rises_table,
    write_clusters,
)
from tools.trials.evidence_data import LEVELS


def result(rule: str, seed: int, *losses: float, examples: int | None = 8) -> ClusterResult:
    run = ClusterRun(rule, 256, examples if RULES[rule] else None, seed)
    return ClusterResult(run, dict(zip((100, 200, 300), losses, strict=False)))


RESULTS = [
    result("uniform", 0, 6.0, 5.0),
    result("uniform", 1, 6.0, 5.2),
    result("importance", 0, 5.5, 5.25, 5.75),
    result("dga_basis", 0, 5.9, 4.5),
    result("dga_basis", 1, 5.9, 4.9),
    result("dga_basis", 2, 5.9, 1.0),  # there is no uniform run of this seed
    result("dga_basis", 0, 5.9, 4.75, examples=128),
]


def rows(table: str) -> list[dict[str, str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def test_gains_are_over_uniform_weights_with_the_same_clusters_and_seeds():
    few, many = rows(clusters_table(RESULTS))
    assert (few["clusters"], few["examples"], few["uniform"]) == ("256", "8", "5.100")
    assert few["`dga_basis`"] == "+0.400 ± 0.100"  # 0.5 and 0.3
    assert few["`importance`"] == "-0.750"
    assert few["`dga`"] == ""
    assert (many["examples"], many["uniform"], many["`dga_basis`"]) == ("128", "5.100", "+0.250")


def test_a_rise_is_the_largest_of_all_seeds():
    few, _ = rows(rises_table(RESULTS))
    assert (few["`importance`"], few["`uniform`"], few["`dga`"]) == ("0.500", "0.000", "")


def test_a_cell_without_uniform_weights_has_no_gains():
    assert rows(clusters_table([result("dga", 0, 5.0)])) == []


def test_results_are_written_and_read_again(tmp_path):
    write_clusters(tmp_path / "clusters.json", RESULTS)
    found = read_clusters(tmp_path / "clusters.json")
    assert sorted(found, key=repr) == sorted(RESULTS, key=repr)
    write_clusters(tmp_path / "again.json", found[::-1])
    again = (tmp_path / "again.json").read_bytes()
    assert again == (tmp_path / "clusters.json").read_bytes()


def test_a_file_that_is_no_record_is_refused_by_name(tmp_path):
    (tmp_path / "clusters.json").write_text('[{"losses": {}}]')
    with pytest.raises(
        ConfigError, match=r"clusters\.json: expected results of runs, found 0\.run"
    ):
        read_clusters(tmp_path / "clusters.json")


def test_rules_that_do_not_look_at_the_examples_are_trained_once():
    planned = planned_clusters([0], LEVELS, EXAMPLES, list(RULES))
    assert sum(each.rule == "uniform" for each in planned) == len(LEVELS)
    assert sum(each.rule == "dga" for each in planned) == len(LEVELS) * len(EXAMPLES)


def test_every_planned_run_is_one_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    runs = [each.run for each in planned_clusters([1], LEVELS[:2], EXAMPLES[:1], list(RULES))]
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        config = load_config(run.path, run.settings)
        assert (config.output, config.seed) == (Path(run.folder), 1)


def test_what_is_not_finished_has_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert finished_clusters([ClusterRun("uniform", 64, None, 0)]) == []
