"""Which tokenizers are exported, and that transformers encodes with them as the shards do."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from megadga.errors import ConfigError
from megadga.export.tokenizer import write_tokenizer
from megadga.prepare.tokenizers.kept import KeptTokenizer
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.tokenizers.round_trips import difficult_texts
from tests.support.huggingface import EOD, train_byte_level
from tests.support.texts import made_up_texts

LOSSLESS = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
OURS = LOSSLESS | {
    "model_type": "bpe",
    "add_dummy_prefix": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
}
SENTENCEPIECE = {
    "ours": OURS,
    "with a prefix": LOSSLESS | {"model_type": "bpe"},
    "pieces of its own": OURS
    | {"user_defined_symbols": ["<think>", "\n "], "control_symbols": ["<end>"]},
}
TEXTS = [
    *made_up_texts(20),
    *difficult_texts(["</s>", "<s>", "<unk>", "<0x0A>", "<think>", "<end>", EOD]),
    "  leading, trailing  ",
    "\ud55c\u1112\u1161\u11ab \U0001f642 \x00\x07",
    "",
]


def train(path: Path, **options: Any) -> Path:
    settings: dict[str, Any] = {"vocab_size": 400, **options}
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*made_up_texts(50), "".join(map(chr, range(33, 127)))]),
        model_writer=model,
        minloglevel=2,
        **settings,
    )
    path.write_bytes(model.getvalue())
    return path


def with_more_around(path: Path) -> Path:
    """A tokenizer that puts EOD before a text, and cuts it."""
    library = Tokenizer.from_file(str(train_byte_level(path)))
    library.post_processor = TemplateProcessing(
        single=f"{EOD} $A", special_tokens=[(EOD, library.token_to_id(EOD))]
    )
    library.enable_truncation(8)
    library.save(str(path))
    return path


def exported(file: Path, folder: Path, eod: str) -> list[str]:
    folder.mkdir()
    ours = load_tokenizer(file, eod=eod, encodes=False)
    return write_tokenizer(KeptTokenizer(ours, file, eod), folder, max_length=8)


def check_equal(file: Path, folder: Path, eod: str) -> None:
    """Compare encodings; of text that spells special tokens, without finding them."""
    ours = load_tokenizer(file, eod=eod, encodes=False)
    expected = [tokens.tolist() for tokens in ours.encode(TEXTS)]
    plain = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    assert [plain(text, verbose=False)["input_ids"] for text in TEXTS] == expected
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(TEXTS[0], verbose=False)["input_ids"] == expected[0]
    assert theirs(f"a{eod}")["input_ids"][-1] == ours.identity.eod
    assert (theirs.eos_token_id, theirs.bos_token_id) == (ours.identity.eod, ours.identity.eod)
    assert (theirs.eos_token, theirs.model_max_length) == (eod, 8)
    assert [theirs.decode(ids, skip_special_tokens=True) for ids in expected] == [
        ours.decode(tokens) for tokens in ours.encode(TEXTS)
    ]


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_transformers_encodes_as_sentencepiece_does(tmp_path, name):
    file = train(tmp_path / "web.model", **SENTENCEPIECE[name])
    assert exported(file, tmp_path / "out", "</s>") == []
    check_equal(file, tmp_path / "out", "</s>")
    assert (tmp_path / "out/tokenizer.model").read_bytes() == file.read_bytes()


def test_equally_probable_pieces_of_a_unigram_model_may_differ(tmp_path):
    file = train(tmp_path / "web.model", **LOSSLESS)
    (warning,) = exported(file, tmp_path / "out", "</s>")
    assert warning.startswith("tokenizer.json: 2 of ")
    assert warning.endswith("sample texts are encoded differently, to pieces equally probable")
    check_equal(file, tmp_path / "out", "</s>")


def test_a_hugging_face_tokenizer_is_exported_as_it_is(tmp_path):
    file = train_byte_level(tmp_path / "web.json")
    assert exported(file, tmp_path / "out", EOD) == []
    check_equal(file, tmp_path / "out", EOD)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == file.read_bytes()


def test_what_a_tokenizer_puts_around_texts_is_left_out_as_in_the_shards(tmp_path):
    file = with_more_around(tmp_path / "web.json")
    (warning,) = exported(file, tmp_path / "out", EOD)
    assert "without the padding, truncation and tokens around a text" in warning
    check_equal(file, tmp_path / "out", EOD)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            LOSSLESS | {"model_type": "bpe", "user_defined_symbols": ["<think>"]},
            r"differently \(model_type: bpe, .*add_dummy_prefix: True, .*user-defined pieces: 1\)",
        ),
        (LOSSLESS | {"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix: expected"),
        (LOSSLESS | {"model_type": "char", "vocab_size": 370}, "model_type: expected bpe or uni"),
    ],
    ids=["prefix", "suffix", "char"],
)
def test_what_another_library_encodes_differently_is_refused_by_the_setting(
    tmp_path, options, message
):
    file = train(tmp_path / "web.model", **options)
    with pytest.raises(ConfigError, match=message):
        exported(file, tmp_path / "out", "</s>")


def test_what_llama_cpp_reads_of_a_tokenizer_is_there(tmp_path):
    exported(train(tmp_path / "web.model", **OURS), tmp_path / "out", "</s>")
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert config["add_bos_token"] is False
    assert config["added_tokens_decoder"]["2"]["content"] == "</s>"
    assert config["added_tokens_decoder"]["2"]["special"] is True
