from pathlib import Path

import pytest

from megadga.config.changes import run_identity, with_allowed
from megadga.config.loading import load_config
from megadga.errors import ResumeError
from megadga.resume_check import check_resume
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    SavedFile,
    mark_latest,
    write_header,
)
from megadga.train.data import open_data
from tests.support.runs import write_run
from tests.support.shards import write_sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=3)


def write_checkpoint(folder: Path, *overrides: str, ranks: int = 4) -> None:
    config = load_config(write_run(folder), overrides)
    checkpoint = config.output / "checkpoints/step-00000005"
    checkpoint.mkdir(parents=True)
    identity = run_identity(config, shards=open_data(config).identity, ranks=ranks)
    files = {"a.pt": SavedFile(1_200_000_000, "0"), "b.pt": SavedFile(50_000_000, "0")}
    write_header(checkpoint, CheckpointHeader(5, 0, with_allowed(identity, None, ()), files))
    mark_latest(checkpoint)


def report(folder: Path, *overrides: str, world_size: int | None = None, allowed=()):
    """The lines up to the error, if there is one, and the error."""
    config = load_config(write_run(folder), overrides)
    lines: list[str] = []
    try:
        lines.extend(check_resume(config, world_size=world_size, allowed=allowed))
    except ResumeError as error:
        return lines, str(error)
    return lines, None


def test_it_says_what_is_divided_anew_and_what_each_change_does(folder):
    write_checkpoint(folder)
    stage = "deepspeed.zero_optimization.stage=3"

    lines, refused = report(folder, stage, "mixing.ema=0.5", world_size=2)

    states = "1.2 GB, divided anew while they are loaded: a rank reads its own part"
    assert lines[:5] == [
        f"checkpoint  {folder}/out/checkpoints/step-00000005: 5 of 10 steps",
        "saved by    4 ranks, ZeRO-1",
        "resumed by  2 ranks, ZeRO-3",
        f"states      {states}; nothing is written",
        "changes     3 keys",
    ]
    assert lines[5:7] == [
        "  mixing.ema: 1.0 -> 0.5",
        "      from the next update; weights and their average are kept",
    ]
    assert {"  deepspeed.zero_optimization.stage: 1 -> 3", "  ranks: 4 -> 2"} < {*lines}
    assert refused is None


def test_without_changes_it_is_loaded_as_it_is(folder):
    write_checkpoint(folder)
    lines, refused = report(folder)
    states = ["states      1.2 GB, loaded as they are", "changes     none"]
    assert lines[3:] == [*states, "domains     unchanged"]
    assert refused is None


def test_what_is_refused_comes_last_as_an_error(folder):
    write_checkpoint(folder)
    overrides = ("seed=3", "sampling.max_epochs=4.0")

    lines, refused = report(folder, *overrides)

    assert "      refused: all that is random would be drawn anew, windows repeated" in lines
    assert any("refused without --allow sampling.max_epochs: " in line for line in lines)
    assert refused is not None
    assert "belongs to another run: seed: expected 17, found 3; sampling.max_epochs: " in refused
    assert report(folder, overrides[1], allowed=["sampling.max_epochs"])[1] is None


def test_a_run_without_a_checkpoint_starts(folder):
    lines, refused = report(folder)
    assert lines == [
        f"checkpoint  none in {folder}/out/checkpoints: the run would start at step 0"
    ]
    assert refused is None
    assert "expected a checkpoint to go on from" in str(report(folder, allowed=["seed"])[1])
