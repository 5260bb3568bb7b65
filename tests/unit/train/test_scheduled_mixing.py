import json
from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from megadga.mixers.schedule import Schedule
from megadga.mixers.updates import UpdateSteps
from megadga.train.data import open_data
from megadga.train.mixture import make_mixture
from tests.support.runs import write_run
from tests.support.shards import write_domain


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two domains and a specific set, under the working directory."""
    for index, name in enumerate(("code", "novels")):
        write_domain(tmp_path / "domains" / name, seed=index)
    write_domain(tmp_path / "specific", seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def schedule(folder: Path, options: str) -> Schedule:
    config = load_config(write_run(folder), [f"mixing={{type: schedule, {options}}}"])
    mixture = make_mixture(config, open_data(config).domains)
    assert isinstance(mixture.scheduler, Schedule)
    assert (mixture.updates, mixture.probe) == (UpdateSteps(1), None)
    return mixture.scheduler


def complaint(folder: Path, options: str) -> str:
    with pytest.raises(ConfigError) as error:
        schedule(folder, options)
    return str(error.value)


def write_updates(path: Path, names: tuple[str, str]) -> None:
    records = [
        {"type": "update", "step": step, "averaged_weights": dict(zip(names, both, strict=True))}
        for step, both in ((4, (0.25, 0.75)), (8, (0.125, 0.875)))
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def test_stages_follow_each_other(folder):
    found = schedule(
        folder,
        "stages: [{step: 0, weights: uniform}, {step: 6, weights: {code: 0, novels: 1}}]",
    )
    assert [found.at(step).tolist() for step in (0, 5, 6)] == [[0.5, 0.5], [0.5, 0.5], [0, 1]]


def test_weights_are_interpolated_linearly_between_stages(folder):
    stages = "stages: [{step: 0, weights: uniform}, {step: 4, weights: {code: 0, novels: 1}}]"
    assert schedule(folder, f"between: linear, {stages}").at(2).tolist() == [0.25, 0.75]


def test_a_table_has_one_line_per_stage_and_one_column_per_domain(folder):
    (folder / "t.csv").write_text("novels,step,code\n1,0,3\n1,5,1\n")
    found = schedule(folder, "csv: t.csv")
    assert [found.at(step).tolist() for step in (4, 5)] == [[0.75, 0.25], [0.5, 0.5]]


def test_a_table_may_begin_with_a_byte_order_mark(folder):
    (folder / "t.csv").write_text("step,code,novels\n0,3,1\n", encoding="utf-8-sig")
    assert schedule(folder, "csv: t.csv").at(0).tolist() == [0.75, 0.25]


def test_replayed_weights_are_bit_identical(folder):
    write_updates(folder / "m.jsonl", ("code", "novels"))
    found = schedule(folder, "replay: {metrics: m.jsonl, initial: {code: 1, novels: 0}}")
    weights = [found.at(step).tolist() for step in (3, 4, 7, 8, 99)]
    assert weights == [[1, 0], [0.25, 0.75], [0.25, 0.75], [0.125, 0.875], [0.125, 0.875]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "stages: [{step: 0, weights: {code: 0.5, novel: 0.5}}]",
            "override 1: mixing.stages.0.weights.novel: expected the name of a domain",
        ),
        ("csv: t.csv", "override 1: mixing.csv: expected a file, found none at t.csv"),
        (
            "replay: {metrics: m.jsonl}",
            "override 1: mixing.replay.metrics: expected a file, found none at m.jsonl",
        ),
    ],
)
def test_what_is_no_schedule_of_these_domains_is_reported_with_its_place(
    folder, options, expected
):
    assert expected in complaint(folder, options)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("code,novels\n1,2\n", "t.csv: expected a first line with step"),
        ("step,code\n0,1\n", "t.csv: columns: expected exactly the 2 domains"),
        ("step,code,novels\n0,1\n", "t.csv: expected lines of 3 numbers, found"),
        ("step,code,novels\n0,1,many\n", "t.csv: expected lines of 3 numbers, found"),
        ("step,code,novels\n0.5,1,1\n", "t.csv: step: expected whole numbers, found [0.5]"),
        ("step,code,novels\n0,0,0\n", "t.csv: line 0: expected finite masses"),
        ("step,code,novels\n", "t.csv: stages: expected the first at step 0, found none"),
    ],
)
def test_an_invalid_table_is_reported_with_its_file(folder, table, expected):
    (folder / "t.csv").write_text(table)
    assert complaint(folder, "csv: t.csv").startswith(expected)


def test_a_run_over_other_domains_cannot_be_replayed(folder):
    write_updates(folder / "m.jsonl", ("code", "poems"))
    assert complaint(folder, "replay: {metrics: m.jsonl}").startswith(
        "m.jsonl: expected the weights of this run's 2 domains"
    )


def test_a_resumed_run_notices_another_table(folder):
    options = ["mixing={type: schedule, csv: t.csv}"]
    (folder / "t.csv").write_text("step,code,novels\n0,1,1\n")
    before = open_data(load_config(write_run(folder), options)).identity
    (folder / "t.csv").write_text("step,code,novels\n0,1,2\n")
    after = open_data(load_config(write_run(folder), options)).identity
    assert before["schedule"] != after["schedule"]
