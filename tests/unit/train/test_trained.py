"""Which folders hold a reference model for a run, and what is said of others."""

import json
import shutil
from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.errors import ConfigError
from megadga.mixers.doremi import Doremi
from megadga.mixers.updates import UpdateSteps
from megadga.train.data import open_data
from megadga.train.mixture import make_mixture
from megadga.train.saved import SavedRun
from tests.support.runs import write_reference, write_run
from tests.support.shards import write_sets

DOREMI = "mixing={type: doremi, reference: reference}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=3)


def found(folder: Path, *overrides: str) -> SavedRun:
    config = load_config(write_run(folder), [DOREMI, *overrides])
    reference = open_data(config).reference
    assert reference is not None
    return reference


def complaint(folder: Path) -> str:
    with pytest.raises(ConfigError) as error:
        found(folder)
    return str(error.value)


def test_the_latest_checkpoint_of_a_run_is_its_model(folder):
    write_reference(folder / "reference", step=3)
    checkpoint = write_reference(
        folder / "reference", "model.vocabulary_size=80", "seed=3", step=6
    )

    reference = found(folder)

    assert reference.checkpoint.resolve() == checkpoint
    assert (reference.step, reference.zero_stage) == (6, 1)
    assert isinstance(reference.config.model, LlamaModel)
    assert (reference.config.model.preset, reference.config.model.vocabulary_size) == ("tiny", 80)


def test_a_rule_without_a_reference_has_none(folder):
    assert open_data(load_config(write_run(folder))).reference is None


def test_the_references_identity_is_independent_of_its_location(folder):
    checkpoint = write_reference(folder / "reference", step=3)
    config = load_config(write_run(folder), [DOREMI])
    before = open_data(config).identity["reference"]
    shutil.copytree(folder / "reference", folder / "moved")
    moved = load_config(write_run(folder), [DOREMI, "mixing.reference=moved"])

    assert before["step"] == 3
    assert open_data(moved).identity["reference"] == before
    assert moved.identity() == config.identity()
    header = json.loads((checkpoint / "megadga.json").read_text())
    header["identity"]["seed"] = 18
    (checkpoint / "megadga.json").write_text(json.dumps(header))
    assert open_data(config).identity["reference"]["digest"] != before["digest"]


def test_doremi_takes_every_setting(folder):
    write_reference(folder / "reference", step=3)
    overrides = [DOREMI, "mixing.step_size=0.5", "mixing.smoothing=0.01", "mixing.interval=7"]
    config = load_config(
        write_run(folder), [*overrides, "mixing.initial={d0: 0.5, d1: 0.25, d2: 0.25}"]
    )

    mixture = make_mixture(config, open_data(config).domains)

    scheduler = mixture.scheduler
    assert isinstance(scheduler, Doremi)
    assert (scheduler.step_size, scheduler.smoothing) == (0.5, 0.01)
    assert scheduler.initial.tolist() == [0.5, 0.25, 0.25]
    assert (mixture.updates, mixture.probe) == (UpdateSteps(7), None)


def test_a_folder_that_is_no_run_is_refused(folder):
    assert complaint(folder) == (
        "override 1: mixing.reference: expected the output folder of a run, "
        "found none at reference"
    )
    (folder / "reference").mkdir()
    assert complaint(folder) == (
        "override 1: mixing.reference: expected the output folder of a run, "
        "found no reference/config.yaml"
    )


def test_a_run_without_a_checkpoint_is_refused(folder):
    write_reference(folder / "reference", step=3)
    (folder / "reference/checkpoints/latest").unlink()
    assert complaint(folder) == (
        "override 1: mixing.reference: expected a run with a checkpoint, "
        "found none in reference/checkpoints"
    )


def test_a_checkpoint_without_a_header_is_refused(folder):
    (write_reference(folder / "reference", step=3) / "megadga.json").unlink()
    assert complaint(folder).startswith(
        "override 1: mixing.reference: expected an intact checkpoint, "
        "found reference/checkpoints/step-00000003/megadga.json: expected a checkpoint's header"
    )


def test_a_model_of_another_sequence_length_is_refused(folder):
    write_reference(folder / "reference", "model.sequence_length=6", step=3)
    assert complaint(folder) == (
        "override 1: mixing.reference: expected a model of model.sequence_length 8 "
        "(reference/config.yaml), found 6"
    )


def test_a_model_by_another_tokenizer_is_refused(folder):
    checkpoint = write_reference(folder / "reference", step=3)
    header = json.loads((checkpoint / "megadga.json").read_text())
    header["identity"]["shards"]["tokenizer"] = "f" * 64
    (checkpoint / "megadga.json").write_text(json.dumps(header))
    assert complaint(folder) == (
        "override 1: mixing.reference: expected a run by the tokenizer 000000000000 "
        "(reference/checkpoints/step-00000003), found ffffffffffff"
    )
