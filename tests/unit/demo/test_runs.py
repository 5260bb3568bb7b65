import json
from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.demo.folder import SPECIFIC, DemoFolder
from megadga.demo.runs import DGA, RUNS, UNIFORM, DemoRunSize, is_finished, write_config
from megadga.errors import ConfigError
from megadga.mixers.dga import DgaOptions
from megadga.mixers.static import StaticOptions

SIZE = DemoRunSize(steps=120, seed=3, ranks=2)


@pytest.fixture
def folder(tmp_path):
    return DemoFolder(tmp_path)


def test_the_two_runs_differ_in_their_mixing_and_output_alone(folder):
    for run in RUNS:
        write_config(folder, run, SIZE)
    dga, uniform = (load_config(folder.config(run)) for run in RUNS)
    assert (type(dga.mixing), type(uniform.mixing)) == (DgaOptions, StaticOptions)
    assert dga.output == folder.run(DGA)
    assert dga.model_copy(update={"mixing": uniform.mixing, "output": uniform.output}) == uniform


def test_a_run_is_as_long_as_asked_and_fits_its_ranks(folder):
    write_config(folder, DGA, SIZE)
    config = load_config(folder.config(DGA))
    assert (config.seed, config.training.steps) == (3, 120)
    assert config.training.micro_batch_size * 2 == config.training.global_batch_size
    assert config.data.specific[SPECIFIC].path == folder.specific / SPECIFIC


def test_a_folder_with_an_unusual_name_is_written_so_that_it_is_read_back(tmp_path):
    folder = DemoFolder(tmp_path / "a: 'b' #é")
    folder.root.mkdir()
    write_config(folder, UNIFORM, SIZE)
    assert load_config(folder.config(UNIFORM)).output == folder.run(UNIFORM)


def test_a_demo_in_a_relative_folder_is_all_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = DemoFolder(Path("runs/demo"))
    folder.root.mkdir(parents=True)
    write_config(folder, DGA, SIZE)
    config = load_config(folder.config(DGA))
    assert config.output == folder.run(DGA)
    assert config.data.domains == folder.domains
    assert config.data.specific[SPECIFIC].path == folder.specific / SPECIFIC


def test_the_same_options_again_change_nothing(folder):
    write_config(folder, DGA, SIZE)
    before = folder.config(DGA).stat().st_mtime_ns
    write_config(folder, DGA, SIZE)
    assert folder.config(DGA).stat().st_mtime_ns == before


def test_another_demo_in_the_folder_is_refused(folder):
    write_config(folder, DGA, SIZE)
    with pytest.raises(ConfigError, match=r"dga\.yaml: .* pass --fresh to start again"):
        write_config(folder, DGA, DemoRunSize(steps=120, seed=4, ranks=2))


@pytest.mark.parametrize(
    ("steps", "seed", "ranks", "message"),
    [
        (19, 0, 2, "steps: expected at least 20, found 19"),
        (400, -1, 2, "seed: expected at least 0, found -1"),
        (400, 0, 3, "ranks: expected a divisor of 8, the sequences of a batch, found 3"),
        (400, 0, 0, "ranks: expected a divisor of 8, the sequences of a batch, found 0"),
    ],
)
def test_options_out_of_range_are_refused(steps, seed, ranks, message):
    with pytest.raises(ConfigError, match=message):
        DemoRunSize(steps=steps, seed=seed, ranks=ranks)


def test_a_run_is_finished_when_its_last_step_is_evaluated(folder):
    assert not is_finished(folder, DGA, SIZE)
    folder.run(DGA).mkdir()
    lines = [json.dumps({"type": "evaluation", "step": step}) for step in (60, 120)]
    folder.metrics(DGA).write_text(f"{lines[0]}\n")
    assert not is_finished(folder, DGA, SIZE)
    folder.metrics(DGA).write_text("\n".join([*lines, ""]))
    assert is_finished(folder, DGA, SIZE)


def test_a_fresh_start_removes_what_a_demo_made_and_nothing_else(folder):
    for run in RUNS:
        write_config(folder, run, SIZE)
        folder.run(run).mkdir()
        folder.metrics(run).write_text("")
    folder.documents.mkdir()
    other = folder.root / "notes.txt"
    other.write_text("mine")
    folder.remove(RUNS)
    assert list(folder.root.iterdir()) == [other]
