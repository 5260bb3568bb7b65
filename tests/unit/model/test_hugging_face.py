"""Models of transformers with the face of our own decoder."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from megadga.config.models import HuggingFaceModel
from megadga.data.targets import PADDING
from megadga.model.hugging_face import Architecture, HuggingFaceDecoder, ModelError

ROWS = 64
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}


def architecture(**keys) -> Architecture:
    section = HuggingFaceModel.model_validate(
        {"type": "hugging_face", "sequence_length": 8, **({"config": LLAMA} | keys)}
    )
    return Architecture.read(section, vocabulary_size=ROWS, eod=3)


def build(seed: int = 3, *, vocabulary_size: int = ROWS, **keys) -> HuggingFaceDecoder:
    return architecture(**keys).build(vocabulary_size=vocabulary_size, seed=seed)


def state_of(model: HuggingFaceDecoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as transformers writes one."""
    path = tmp_path_factory.mktemp("model")
    build(seed=9).model.save_pretrained(path)  # pyright: ignore[reportCallIssue]
    return path


def test_the_loss_is_that_of_each_next_token():
    model = build()
    tokens = torch.randint(ROWS, (2, 9), generator=torch.Generator().manual_seed(1))
    logits = model.logits(tokens[:, :-1])
    expected = functional.cross_entropy(logits.mT, tokens[:, 1:], reduction="none")

    losses = model(tokens)

    torch.testing.assert_close(losses, expected)


def test_padding_has_no_loss_and_changes_no_other():
    model = build()
    tokens = torch.randint(ROWS, (1, 9), generator=torch.Generator().manual_seed(1))
    padded = functional.pad(tokens, (0, 3), value=PADDING)

    losses = model(padded)

    torch.testing.assert_close(losses[:, :8], model(tokens))
    assert not losses[:, 8:].any()


def test_initial_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    first = state_of(build(seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)

    again, other = state_of(build(seed=3)), state_of(build(seed=4))

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.lm_head.weight"], other["model.lm_head.weight"])


def test_tables_of_positions_are_not_rounded():
    model = build()
    exact = dict(model.named_buffers())

    rounded = build().to(torch.bfloat16)

    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    assert exact
    for name, buffer in rounded.named_buffers():
        assert torch.equal(buffer, exact[name])


def test_sizes_are_known_without_building(folder):
    keys: dict[str, Any] = {"path": str(folder), "config": {}}

    for rows in (ROWS, ROWS + 6):
        shapes = architecture(**keys).parameter_shapes(rows)
        built = [tuple(p.shape) for p in build(vocabulary_size=rows, **keys).parameters()]
        assert sorted(shapes) == sorted(built)


def test_weights_come_from_the_folder_and_added_rows_from_the_seed(folder):
    saved = load_file(folder / "model.safetensors")

    model = build(vocabulary_size=ROWS + 6, path=str(folder), config={})
    again = build(vocabulary_size=ROWS + 6, path=str(folder), config={})

    table = model.state_dict()["model.model.embed_tokens.weight"]
    assert torch.equal(table[:ROWS], saved["model.embed_tokens.weight"])
    assert torch.equal(table, again.state_dict()["model.model.embed_tokens.weight"])
    assert table[ROWS:].std() > 0.0
    assert model.state_dict()["model.lm_head.weight"].data_ptr() == table.data_ptr()


def test_a_checkpoint_that_follows_needs_no_weights(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    bare = architecture(path=str(tmp_path), config={})

    assert bare.build(vocabulary_size=ROWS, seed=1, pretrained=False) is not None
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        bare.build(vocabulary_size=ROWS, seed=1)


def test_a_missing_weight_is_named(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"], weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(ModelError) as error:
        build(path=str(tmp_path), config={})

    assert error.value.key == ("path",)
    assert error.value.found == (
        f"none for model.layers.1.mlp.up_proj.weight and 1 more in {tmp_path}"
    )


def test_keys_of_the_configuration_override_the_folders(folder):
    changed = architecture(path=str(folder), config={"attention_dropout": 0.25})

    assert changed.config.attention_dropout == 0.25
    assert changed.config.hidden_size == LLAMA["hidden_size"]


@pytest.mark.parametrize(
    ("keys", "key", "found"),
    [
        ({"config": {"model_type": "lama"}}, ("config",), "lama"),
        ({"config": {}, "path": "/no/such"}, ("path",), "/no/such"),
        ({"config": LLAMA | {"num_attention_heads": 3}}, ("config",), "3"),
    ],
)
def test_what_transformers_refuses_names_the_key(keys, key, found):
    with pytest.raises(ModelError) as error:
        architecture(**keys)

    assert error.value.key == key
    assert found in error.value.found


def test_an_unknown_key_beside_a_path_is_named(folder):
    with pytest.raises(ModelError) as error:
        architecture(path=str(folder), config={"hidden_sise": 3})

    assert error.value.key == ("config", "hidden_sise")
