"""What is checked of a model before it is built: its rows, positions and tokenizer."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from megadga.check import check
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError
from megadga.train.models import (
    check_model,
    model_size,
    open_architecture,
)
from megadga.train.models import vocabulary_rows as rows_of_architecture
from tests.support.runs import RUN, write_run
from tests.support.shards import write_sets

LLAMA = "{type: llama, preset: tiny, sequence_length: 8}"
QWEN = """{model_type: qwen3, hidden_size: 16, intermediate_size: 20, num_hidden_layers: 2,
    num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, max_position_embeddings: 32}"""
TOKENIZER_FILE = b'{"model": "of a tokenizer"}'


def tokenizer(content: bytes = TOKENIZER_FILE, *, vocab_size: int = 64) -> TokenizerIdentity:
    fingerprint = hashlib.sha256(content).hexdigest()
    return TokenizerIdentity("huggingface", fingerprint, vocab_size=vocab_size, eod=0)


def run(folder: Path, model: str, *overrides: str) -> RunConfig:
    return load_config(write_run(folder, RUN.replace(LLAMA, model)), overrides)


def vocabulary_rows(config: RunConfig, found: TokenizerIdentity) -> int:
    return rows_of_architecture(config, found, open_architecture(config, found))


def complaint(config: RunConfig, found: TokenizerIdentity) -> str:
    def both() -> None:
        architecture = open_architecture(config, found)
        rows_of_architecture(config, found, architecture)
        check_model(config, found, architecture)

    with pytest.raises(ConfigError) as error:
        both()
    return str(error.value).partition(": ")[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model with 64 rows, but without its weights."""
    from transformers import AutoConfig  # noqa: PLC0415  (slow to import)

    folder = tmp_path_factory.mktemp("model")
    config = run(folder, f"{{type: hugging_face, config: {QWEN}, sequence_length: 8}}")
    assert config.model.type == "hugging_face"
    values: dict[str, Any] = {"vocab_size": 64, **config.model.config}
    AutoConfig.for_model(**values).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(TOKENIZER_FILE)
    return folder


def test_an_architecture_has_the_rows_of_the_tokenizer(tmp_path):
    config = run(tmp_path, f"{{type: hugging_face, config: {QWEN}, sequence_length: 8}}")

    found = tokenizer(vocab_size=71)
    assert vocabulary_rows(config, found) == 71
    size = model_size(config, found, open_architecture(config, found))

    # Untied embeddings, and in each layer q, k, v, o of 2, 1, 1 and 2 heads and three of the MLP.
    assert size.matrices.count((71, 16)) == 2
    assert len(size.matrices) == 2 + 2 * 7
    assert size.num_parameters == 2 * 71 * 16 + 2 * (16 * 48 + 3 * 16 * 20 + 48) + 16


def test_rows_are_added_only_if_asked_for_and_never_taken_away(tmp_path, weights):
    model = f"{{type: hugging_face, path: {weights}, sequence_length: 8}}"
    more, fewer = tokenizer(vocab_size=70), tokenizer(vocab_size=50)

    assert vocabulary_rows(run(tmp_path, model), fewer) == 64
    assert vocabulary_rows(run(tmp_path, model, "model.vocabulary_size=72"), more) == 72
    assert complaint(run(tmp_path, model), more) == (
        "model.vocabulary_size: expected at least 70, the tokenizer's: rows are added only if "
        "asked for, found null, and 64 in the model"
    )
    assert complaint(run(tmp_path, model, "model.vocabulary_size=60"), fewer) == (
        "model.vocabulary_size: expected at least 64, the model's own, found 60"
    )


def test_the_tokenizer_beside_the_weights_must_be_that_of_the_shards(tmp_path, weights):
    model = f"{{type: hugging_face, path: {weights}, sequence_length: 8}}"
    config, other = run(tmp_path, model), tokenizer(b"another")

    check_model(config, tokenizer(), open_architecture(config, tokenizer()))
    assert complaint(config, other) == (
        "model.path: expected the tokenizer of the shards (huggingface "
        f"{other.fingerprint[:12]}), or check_tokenizer: false, found tokenizer.json "
        f"{tokenizer().fingerprint[:12]}"
    )
    sentencepiece = TokenizerIdentity("sentencepiece", "f" * 64, vocab_size=64, eod=0)
    assert complaint(config, sentencepiece).endswith("found no tokenizer.model")
    unchecked = run(tmp_path, model, "model.check_tokenizer=false")
    check_model(unchecked, other, open_architecture(unchecked, other))


def test_windows_must_fit_the_positions(tmp_path, weights):
    model = f"{{type: hugging_face, path: {weights}, sequence_length: 33}}"

    assert complaint(run(tmp_path, model), tokenizer()) == (
        "model.sequence_length: expected at most 32, the positions of the model "
        "(max_position_embeddings), found 33"
    )


def test_a_revision_is_one_of_the_hub(tmp_path, weights):
    model = f"{{type: hugging_face, path: {weights}, revision: v2, sequence_length: 8}}"

    assert complaint(run(tmp_path, model), tokenizer()) == (
        "model.revision: expected null for a folder, found v2"
    )


def test_check_tells_what_a_model_comes_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, num_domains=2)
    own = f"{{type: hugging_face, config: {QWEN}, sequence_length: 8}}"
    sizes = "{type: llama, preset: tiny, num_layers: 1, sequence_length: 8}"

    own, sizes = (next(iter(check(run(tmp_path, model)))) for model in (own, sizes))

    assert own == "model       Qwen3Config of qwen3, 5,616 parameters, 64 tokens in the vocabulary"
    assert sizes.startswith("model       llama tiny with num_layers 1, 205,184 parameters, ")


def test_the_configuration_of_a_model_is_read_once(tmp_path, monkeypatch):
    from megadga.model import hugging_face  # noqa: PLC0415  (slow to import)

    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, num_domains=2)
    own = f"{{type: hugging_face, config: {QWEN}, sequence_length: 8, vocabulary_size: 72}}"
    config = run(tmp_path, own)
    reads: list[str] = []

    for_model = hugging_face.AutoConfig.for_model

    def counted(model_type: str, **values: Any) -> Any:
        reads.append(model_type)
        return for_model(model_type, **values)

    monkeypatch.setattr(hugging_face.AutoConfig, "for_model", counted)

    assert next(iter(check(config))).endswith("72 tokens in the vocabulary")
    assert reads == ["qwen3"]


def test_a_block_of_experts_under_zero3_is_refused_with_its_name_and_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, num_domains=2)
    sizes = "hidden_size: 16, intermediate_size: 20, num_hidden_layers: 2, num_attention_heads: 2"
    experts = f"{{model_type: mixtral, {sizes}, num_local_experts: 4, num_key_value_heads: 1}}"
    config = run(
        tmp_path,
        f"{{type: hugging_face, config: {experts}, sequence_length: 8}}",
        "deepspeed.zero_optimization.stage=3",
    )

    with pytest.raises(ConfigError) as error:
        list(check(config))

    message = str(error.value)
    assert "override 1: deepspeed.zero_optimization.stage: expected 2 or lower, or a" in message
    assert message.endswith(
        "the leaf module 'model.model.layers.0.mlp' (MixtralSparseMoeBlock) and 1 more"
    )
    divided = load_config(tmp_path / "run.yaml", ["deepspeed.zero_optimization.stage=2"])
    assert next(iter(check(divided))).startswith("model       MixtralConfig of mixtral, ")


def test_a_folder_without_a_configuration_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, num_domains=2)
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfigError) as error:
        list(check(run(tmp_path, "{type: hugging_face, path: empty, sequence_length: 8}")))

    assert str(error.value).endswith(
        "run.yaml:3: model.path: expected a folder with config.json, or a model on the hub, "
        f"found none at {tmp_path}/empty"
    )
