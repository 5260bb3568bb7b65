import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from megadga.errors import ConfigError
from megadga.prepare.tokenizers.loading import load_tokenizer
from tests.support.huggingface import train_byte_level
from tests.support.texts import made_up_texts


@pytest.fixture(scope="module")
def json_file(tmp_path_factory):
    return train_byte_level(tmp_path_factory.mktemp("huggingface") / "tokenizer.json")


def test_the_file_says_of_which_kind_a_tokenizer_is(tokenizer, json_file):
    assert load_tokenizer(tokenizer.path).identity == tokenizer.identity
    assert load_tokenizer(tokenizer.path).identity.kind == "sentencepiece"
    assert load_tokenizer(json_file).identity.kind == "huggingface"
    assert load_tokenizer(json_file.parent).identity == load_tokenizer(json_file).identity


@pytest.fixture(params=["sentencepiece", "huggingface"])
def loaded(request, tokenizer, json_file):
    return load_tokenizer(tokenizer.path if request.param == "sentencepiece" else json_file)


def test_every_kind_keeps_text_and_its_own_id_for_the_end(loaded):
    texts = [*made_up_texts(5), "", "</s><|endoftext|>", "日本 🙂\n"]
    encoded = loaded.encode(texts)
    for text, tokens in zip(texts, encoded, strict=True):
        assert tokens.dtype == np.uint16
        assert loaded.identity.eod not in tokens
        assert loaded.decode(np.append(tokens, loaded.identity.eod)) == text
    assert loaded.encode([]) == []


def test_what_a_tokenizer_that_loses_text_has_written_can_be_read(json_file, tmp_path):
    library = Tokenizer.from_file(str(json_file))
    library.normalizer = normalizers.Lowercase()
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"expected text to be unchanged by a round trip"):
        load_tokenizer(tmp_path)
    reading = load_tokenizer(tmp_path, encodes=False)
    assert reading.decode(reading.encode(["AB"])[0]) == "ab"


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.tiktoken: expected a sentencepiece .model, .*tikt"):
        load_tokenizer(tmp_path / "a.tiktoken")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: expected a tokenizer, found No such"):
        load_tokenizer(tmp_path)


def test_without_the_library_only_its_tokenizers_cannot_be_read(tokenizer, json_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "megadga.prepare.tokenizers.hugging_face", raising=False)
    assert load_tokenizer(tokenizer.path).identity == tokenizer.identity
    with pytest.raises(ConfigError, match=r"tokenizers: expected it to be .*'megadga\[data\]'"):
        load_tokenizer(json_file)
