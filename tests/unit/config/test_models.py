"""The section `model`: sizes of a preset that are changed, and where other models come from."""

from dataclasses import replace
from typing import Any

import pytest

from megadga.config.llama_shapes import PRESETS
from megadga.config.loading import load_config
from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig, differences
from megadga.errors import ConfigError
from tests.support.runs import RUN, write_run

LLAMA = "model: {type: llama, preset: tiny, sequence_length: 8}"
SIZES: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 96,
    "num_heads": 6,
    "num_kv_heads": 3,
    "intermediate_size": 200,
    "rope_theta": 500000.0,
    "tied_embeddings": False,
}


def loaded(folder, model: str, *overrides: str) -> RunConfig:
    assert LLAMA in RUN
    return load_config(write_run(folder, RUN.replace(LLAMA, f"model: {model}")), overrides)


def complaint(folder, model: str) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(folder, model)
    return str(error.value).removeprefix(f"{folder}/")


def test_a_preset_has_its_own_sizes(tmp_path):
    model = load_config(write_run(tmp_path)).model

    assert isinstance(model, LlamaModel)
    assert model.shape == PRESETS["tiny"]


@pytest.mark.parametrize("name", SIZES)
def test_any_size_of_a_preset_can_be_changed(tmp_path, name):
    fitting = {"num_heads": ("hidden_size",), "num_kv_heads": ("hidden_size", "num_heads")}
    given = {key: SIZES[key] for key in (name, *fitting.get(name, ()))}
    keys = ", ".join(f"{key}: {str(value).lower()}" for key, value in given.items())

    model = loaded(tmp_path, f"{{type: llama, preset: tiny, sequence_length: 8, {keys}}}").model

    assert isinstance(model, LlamaModel)
    assert model.shape == replace(PRESETS["tiny"], **given)


def test_sizes_that_do_not_fit_name_the_key(tmp_path):
    model = "{type: llama, preset: tiny, sequence_length: 8, num_kv_heads: 3}"

    assert complaint(tmp_path, model) == (
        "run.yaml:3: model.num_kv_heads: expected a divisor of num_heads = 4, found 3"
    )


def test_a_folder_that_is_there_is_meant_and_else_a_model_of_the_hub(tmp_path):
    (tmp_path / "weights" / "small").mkdir(parents=True)
    model = "{type: hugging_face, path: weights/%s, sequence_length: 8}"

    folder, name, beyond = (
        loaded(tmp_path, model % path).model for path in ("small", "large", "../no/such/folder")
    )

    assert isinstance(folder, HuggingFaceModel)
    assert folder.path == str(tmp_path / "weights" / "small")
    assert isinstance(name, HuggingFaceModel)
    assert name.path == "weights/large"
    assert isinstance(beyond, HuggingFaceModel)
    assert beyond.path == str(tmp_path / "no" / "such" / "folder")


@pytest.mark.parametrize("path", ["there", "owner/name"])
def test_what_a_run_writes_down_names_the_same_model(tmp_path, monkeypatch, path):
    (tmp_path / "there").mkdir()
    before = loaded(tmp_path, f"{{type: hugging_face, path: {path}, sequence_length: 8}}")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "again.yaml").write_text(before.to_yaml())

    assert load_config(elsewhere / "again.yaml").model == before.model


def test_a_model_needs_weights_or_an_architecture(tmp_path):
    assert complaint(tmp_path, "{type: hugging_face, sequence_length: 8}") == (
        "run.yaml:3: model.path: expected a folder, a model on the hub, or config.model_type, "
        "found neither"
    )
    model = "{type: hugging_face, config: {model_type: gpt2}, revision: main, sequence_length: 8}"
    assert complaint(tmp_path, model) == (
        "run.yaml:3: model.revision: expected null without a path, found main"
    )


def test_the_folder_of_a_models_weights_may_move(tmp_path):
    for name in ("here/small", "there/small", "there/large"):
        (tmp_path / name).mkdir(parents=True)
    model = "{type: hugging_face, path: here/small, sequence_length: 8}"
    before = loaded(tmp_path, model).identity()
    moved, other = (
        loaded(tmp_path, model, f"model.path={tmp_path}/there/{name}").identity()
        for name in ("small", "large")
    )

    assert differences(before, moved) == []
    assert differences(before, other) == ["model.path: expected 'small', found 'large'"]
