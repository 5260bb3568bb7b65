"""Paths in a run's file lie under its folder, those in an override under the working directory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from megadga.commands.init import EXAMPLES
from megadga.config.loading import load_config
from megadga.config.mixing import ExtensionOptions
from megadga.config.run import RunConfig
from megadga.config.validation import map_paths, sections_in
from tests.support.extensions import write_extension
from tests.support.ranks import REPOSITORY
from tests.support.runs import RUN, write_run

EVIDENCE = REPOSITORY / "configs" / "evidence"
OF_DGA = "  type: dga\n  interval: 4\n  step_size: 0.5\n"
PLACES = {
    "output": RUN.replace("output: out", "output: here"),
    "data.domains": RUN.replace("domains: domains", "domains: here"),
    "data.domains.path": RUN.replace("domains: domains", "domains: [{name: a, path: here}]"),
    "data.revisions": RUN.replace("domains: domains", "domains: domains\n  revisions: here"),
    "data.specific.path": RUN.replace("path: specific", "path: here"),
    "mixing.basis": RUN.replace("step_size: 0.5", "step_size: 0.5\n  basis: here"),
    "mixing.histogram": RUN.replace(OF_DGA, "  type: importance\n  histogram: here\n"),
    "mixing.csv": RUN.replace(OF_DGA, "  type: schedule\n  csv: here\n"),
    "mixing.replay.metrics": RUN.replace(OF_DGA, "  type: schedule\n  replay: {metrics: here}\n"),
    "evaluation.sets.path": f"{RUN}evaluation: {{sets: {{new: {{path: here}}}}}}\n",
    "monitor.tensorboard.folder": f"{RUN}monitor: {{tensorboard: {{folder: here}}}}\n",
    "monitor.csv.folder": f"{RUN}monitor: {{csv: {{folder: here}}}}\n",
    "model.initial_weights": RUN.replace("preset: tiny", "preset: tiny, initial_weights: here"),
    "mixing.reference": RUN.replace(OF_DGA, "  type: doremi\n  reference: here\n"),
}
"""A run for each key that holds a path."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory beside the folder of the run's file."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "runs"


def paths(config: BaseModel) -> dict[str, Path]:
    found: dict[str, Path] = {}

    def note(key: tuple[str | int, ...], path: Path) -> Path:
        found[".".join(map(str, key))] = path
        return path

    map_paths(config, note)
    return found


def keys_of_paths(section: type[BaseModel], key: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if "path" in repr(field.annotation).lower() and _holds_path(field.annotation):
            yield f"{key}{name}"
        for inner in sections_in(field.annotation):
            yield from keys_of_paths(inner, f"{key}{name}.")


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_holds_path, get_args(annotation)))


def test_every_key_that_holds_a_path_is_tried_here():
    assert set(keys_of_paths(RunConfig)) == PLACES.keys()


@pytest.mark.parametrize("key", PLACES)
def test_a_path_in_the_file_is_relative_to_its_folder(elsewhere, key):
    config = load_config(write_run(elsewhere, PLACES[key]))
    assert elsewhere / "here" in paths(config).values()
    assert all(path.is_relative_to(elsewhere) for path in paths(config).values())


def test_deepspeeds_file_is_found_by_the_same_rule(elsewhere):
    path = write_run(elsewhere)
    assert load_config(path).deepspeed["zero_optimization"] == {"stage": 1}
    shutil.copy(elsewhere / "zero.json", "mine.json")
    Path("mine.json").write_text(Path("mine.json").read_text().replace('"stage": 1', '"stage": 3'))
    assert load_config(path, ["deepspeed=mine.json"]).deepspeed["zero_optimization"] == {
        "stage": 3
    }


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("output=there/a", "output"),
        ("data.specific.target.path=there/a", "data.specific.target.path"),
        ("data.specific={target: {path: there/a}}", "data.specific.target.path"),
        ("data.domains=[{name: a, path: there/a}]", "data.domains.0.path"),
        ("mixing={type: importance, histogram: there/a}", "mixing.histogram"),
        ("mixing={type: schedule, replay: {metrics: there/a}}", "mixing.replay.metrics"),
    ],
)
def test_a_path_in_an_override_is_relative_to_the_working_directory(elsewhere, override, key):
    found = paths(load_config(write_run(elsewhere), [override]))
    assert found.pop(key) == Path("there/a")
    assert all(path.is_relative_to(elsewhere) for path in found.values())


def test_an_override_inside_a_list_leaves_its_other_paths_where_they_were(elsewhere):
    two = "[{name: a, path: a}, {name: b, path: b}]"
    path = write_run(elsewhere, RUN.replace("domains: domains", f"domains: {two}"))
    found = paths(load_config(path, ["data.domains.1.path=mine"]))
    assert found["data.domains.0.path"] == elsewhere / "a"
    assert found["data.domains.1.path"] == Path("mine")


def test_absolute_paths_stay(elsewhere):
    path = write_run(elsewhere, RUN.replace("output: out", "output: /runs/out"))
    assert load_config(path).output == Path("/runs/out")
    assert load_config(path, ["output=/other"]).output == Path("/other")


def test_a_way_up_is_reported_as_short_as_it_is(elsewhere, monkeypatch):
    monkeypatch.chdir(elsewhere.parent)
    (elsewhere / "deep").mkdir()
    write_run(elsewhere / "deep", RUN.replace("output: out", "output: ../../out"))
    assert load_config(Path("runs/deep/run.yaml")).output == Path("out")


def test_a_way_up_out_of_a_linked_folder_is_the_real_one(elsewhere, monkeypatch):
    (elsewhere / "deep").mkdir()
    write_run(elsewhere / "deep", RUN.replace("output: out", "output: ../out"))
    monkeypatch.chdir(elsewhere.parent)
    Path("link").symlink_to(elsewhere / "deep")
    assert load_config(Path("link/run.yaml")).output.resolve() == elsewhere / "out"


def test_the_resolved_run_reads_back_the_same_from_any_folder(elsewhere):
    config = load_config(write_run(elsewhere), ["output=out"])
    (elsewhere / "out").mkdir()
    saved = elsewhere / "out" / "config.yaml"
    saved.write_text(config.to_yaml())
    assert paths(load_config(saved)) == {
        key: Path.cwd() / path for key, path in paths(config).items()
    }


def test_the_shipped_runs_read_and_write_in_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path in sorted(EXAMPLES.glob("*.yaml")):
        for key, found in paths(load_config(path)).items():
            (top, *_) = found.relative_to(EXAMPLES).parts
            assert top in ("runs", "shards"), f"{path}: {key}: {found}"
    for path in sorted(EVIDENCE.rglob("*.yaml")):
        for key, found in paths(load_config(path)).items():
            (top, *_) = found.relative_to(REPOSITORY).parts
            assert top in ("runs", "build"), f"{path}: {key}: {found}"


MODULE = """
from pathlib import Path

from megadga.section import Section


class Options(Section):
    table: Path
    more: tuple[Path, ...] = (Path("default"),)


options = Options


def make(chosen, context):
    raise ValueError("none")
"""


def test_paths_among_an_extensions_options_follow_the_rule(elsewhere, tmp_path, monkeypatch):
    site = write_extension(tmp_path / "site", name="tabled", module="tabled_rule", text=MODULE)
    monkeypatch.syspath_prepend(site)
    text = RUN.replace(OF_DGA, "  type: tabled\n  table: tables/a.csv\n")
    config = load_config(write_run(elsewhere, text))
    assert isinstance(config.mixing, ExtensionOptions)
    assert paths(config)["mixing.table"] == elsewhere / "tables/a.csv"
    assert paths(config)["mixing.more.0"] == elsewhere / "default"
    assert config.mixing.origin()[0].name == "tabled"
    monkeypatch.chdir(elsewhere)
    assert load_config(Path("run.yaml")).identity() == config.identity()
