import hashlib
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordLevel

from megadga.errors import ConfigError
from megadga.prepare.tokenizers.hugging_face import WELL_KNOWN_EODS, HuggingFaceTokenizer
from tests.support.huggingface import EOD, byte_level, bytes_alone, train_byte_level
from tests.support.texts import made_up_texts

ALPHABET = {byte: index for index, byte in enumerate(pre_tokenizers.ByteLevel.alphabet())}
FALLBACK = {f"<0x{byte:02X}>": byte for byte in range(256)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer with many special tokens, only one of which is known to end documents."""
    path = tmp_path_factory.mktemp("trained") / "tokenizer.json"
    return HuggingFaceTokenizer.load(train_byte_level(path, special=["<s>", EOD, "<pad>"]))


def save(tokenizer: Tokenizer, folder):
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back_unchanged(trained, text):
    (tokens,) = trained.encode([text])
    assert trained.decode(tokens) == text


@given(st.lists(st.sampled_from([EOD, "<s>", "<pad>", "<", "|>", "\n", " ", "a", "é"])))
def test_no_text_is_encoded_to_a_special_token(trained, parts):
    (tokens,) = trained.encode(["".join(parts)])
    assert not np.isin(tokens, [0, 1, 2]).any()
    assert trained.decode(tokens) == "".join(parts)


def test_the_identity_names_the_file_and_its_ids(trained):
    identity = trained.identity
    assert identity.kind == "huggingface"
    assert identity.fingerprint == hashlib.sha256(trained.path.read_bytes()).hexdigest()
    assert (identity.vocab_size, identity.eod) == (400, 1)


def test_special_tokens_beyond_the_vocabulary_count(tmp_path):
    tokenizer = Tokenizer.from_file(str(train_byte_level(tmp_path / "a.json", special=[])))
    tokenizer.add_special_tokens([EOD])
    identity = HuggingFaceTokenizer.load(save(tokenizer, tmp_path)).identity
    assert (identity.vocab_size, identity.eod) == (401, 400)


@pytest.mark.parametrize(
    ("num_ids", "dtype"), [(65_535, np.uint16), (65_536, np.uint16), (65_537, np.int32)]
)
def test_the_largest_id_decides_on_the_type(tmp_path, num_ids, dtype):
    path = bytes_alone(tmp_path / "tokenizer.json", eod=num_ids - 1)
    tokenizer = HuggingFaceTokenizer.load(path)
    assert (tokenizer.identity.vocab_size, tokenizer.identity.eod) == (num_ids, num_ids - 1)
    (tokens,) = tokenizer.encode(["abc"])
    assert (tokens.dtype, tokens.size) == (dtype, 3)


def test_settings_for_a_models_input_are_excluded(trained, tmp_path):
    text = made_up_texts(1)[0]
    library = Tokenizer.from_file(str(trained.path))
    library.enable_truncation(5)
    library.enable_padding(length=5_000)
    library.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {EOD}", special_tokens=[("<s>", 0), (EOD, 1)]
    )
    limited = HuggingFaceTokenizer.load(save(library, tmp_path))
    assert limited.encode([text, "a"])[0].tolist() == trained.encode([text])[0].tolist()


COUNT_THREADS = """
import sys
from pathlib import Path
from megadga.prepare.tokenizers.hugging_face import HuggingFaceTokenizer
tasks = Path("/proc/self/task")
before = len(list(tasks.iterdir()))
HuggingFaceTokenizer.load(Path(sys.argv[1])).encode(["some words"] * 1000)
print(before, len(list(tasks.iterdir())))
"""


def test_the_library_starts_no_threads_of_its_own(trained):
    # In a process of its own: this one's library has trained a tokenizer, with threads that stay.
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-c", COUNT_THREADS, str(trained.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert before == after


def test_the_end_of_documents_can_be_named(trained):
    named = HuggingFaceTokenizer.load(trained.path, eod="<pad>")
    assert named.identity.eod == 2
    assert named.identity != trained.identity


@pytest.mark.parametrize("name", WELL_KNOWN_EODS)
def test_a_well_known_name_needs_no_naming(tmp_path, name):
    path = save(byte_level(BPE({**ALPHABET}, []), special=["<s>", name]), tmp_path)
    assert HuggingFaceTokenizer.load(path).identity.eod == 257


@pytest.mark.parametrize(
    ("special", "eod", "message"),
    [
        (
            [EOD, "<|im_end|>"],
            None,
            r"expected exactly one of .*, found <\|endoftext\|>, <\|",
        ),
        (["<end>"], None, r"found none: name the special token .*, one of <end>$"),
        (
            [EOD],
            "<end>",
            r"expected the name of a special token .* <\|endoftext\|>, found '<end>'",
        ),
        ([EOD], "a", "expected the name of a special token .*, found 'a'"),
        ([f"<{i}>" for i in range(12)], "x", "one of <0>, .*<9> and 2 more, found 'x'"),
        ([], "a", "one of none that it has, found 'a'"),
    ],
)
def test_an_end_of_documents_that_is_not_clear_is_refused(tmp_path, special, eod, message):
    path = save(byte_level(BPE({**ALPHABET}, []), special=special), tmp_path)
    with pytest.raises(ConfigError, match=f"^{path}: eod: .*{message}"):
        HuggingFaceTokenizer.load(path, eod=eod)


def test_a_token_that_text_can_become_does_not_end_documents(tmp_path):
    tokenizer = byte_level(BPE({**ALPHABET}, []), special=[])
    tokenizer.add_tokens([AddedToken(EOD, special=False)])
    with pytest.raises(ConfigError, match=r"eod: expected exactly one of .*, found none"):
        HuggingFaceTokenizer.load(save(tokenizer, tmp_path))


def byte_fallback() -> Tokenizer:
    """As Llama 2's: bytes only for what is not in the vocabulary."""
    vocabulary = {**FALLBACK, "▁": 256, "a": 257, "</s>": 258, "<unk>": 259}
    tokenizer = Tokenizer(BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["</s>", "<unk>"])
    return tokenizer


def test_byte_fallback_spells_what_is_not_in_the_vocabulary(tmp_path):
    tokenizer = HuggingFaceTokenizer.load(save(byte_fallback(), tmp_path))
    (tokens,) = tokenizer.encode(["aé </s>\x00"])
    assert tokens[:5].tolist() == [256, 257, 0xC3, 0xA9, 256]
    assert not np.isin(tokens, [258, 259]).any()
    assert tokenizer.decode(np.append(tokens, 258)) == "aé </s>\x00"


def without(vocabulary: dict[str, int], key: str) -> dict[str, int]:
    return {name: index for name, index in vocabulary.items() if name != key}


def normalising(*parts: normalizers.Normalizer) -> Tokenizer:
    tokenizer = byte_level(BPE({**ALPHABET}, []))
    tokenizer.normalizer = normalizers.Sequence(list(parts))
    return tokenizer


def with_added(name: str = "<think>", **settings: bool) -> Tokenizer:
    """A tokenizer with one more token that text may become."""
    tokenizer = byte_level(BPE({**ALPHABET}, []))
    tokenizer.add_tokens([AddedToken(name, special=False, **settings)])
    return tokenizer


def prefixing() -> Tokenizer:
    tokenizer = byte_level(BPE({**ALPHABET}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def with_metaspace(scheme: str) -> Tokenizer:
    """As Llama 2's, but put together otherwise."""
    tokenizer = byte_fallback()
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    if scheme == "never":
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    return tokenizer


def splitting() -> Tokenizer:
    tokenizer = byte_level(BPE({**ALPHABET}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def without_bytes() -> Tokenizer:
    tokenizer = Tokenizer(BPE({"a": 0, EOD: 1}, []))
    tokenizer.add_special_tokens([EOD])
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (
            without_bytes(),
            "expected a byte-level tokenizer or one with byte_fallback, found neithe",
        ),
        (byte_level(BPE(without(ALPHABET, "ÿ"), [])), "expected all 256 bytes .*, found 255"),
        (
            byte_level(BPE(without(FALLBACK, "<0x00>"), [], byte_fallback=True)),
            "expected all 256 bytes .*, found 0",
        ),
        (byte_level(WordLevel({**ALPHABET}, "a")), "model.type: expected BPE .*, found WordLevel"),
        (
            byte_level(BPE({**ALPHABET}, [], end_of_word_suffix="</w>")),
            "model.end_of_word_suffix: expected none, found '</w>'",
        ),
        (
            byte_level(BPE({**ALPHABET}, [], dropout=0.5)),
            "model.dropout: expected none, found 0.5",
        ),
        (
            normalising(normalizers.Lowercase()),
            r"expected text to be unchanged by a round trip, 'A  b\\n\\n\\tc .*', found 'a  b\\n",
        ),
        (splitting(), r"expected text to be unchanged by a round trip, 'A  b.*', found 'Ab"),
        (normalising(normalizers.Strip()), r"expected text .* round trip, ' a b ', found 'a b'"),
        (normalising(normalizers.Strip(left=False)), r"expected .*, ' a b ', found ' a b'"),
        (
            normalising(normalizers.Replace("\r\n", "\n")),
            r"expected .*\\r\\n.*', found .*\\n",
        ),
        (normalising(normalizers.Replace("\u200b", "")), r"expected .*'a\\u200bb .*', found 'ab"),
        (normalising(normalizers.NFKC()), r"expected .*'a\\xa0b .*', found 'a b"),
        (normalising(normalizers.NFD()), r"expected .* \\xe9 .*', found '.* e\\u0301 "),
        (with_added(rstrip=True), r"expected .*, 'think>  b\\n.*', found 'think>b"),
        (with_added(lstrip=True), r"expected .*, 'a  <think>  .*', found 'a<think>  "),
        (prefixing(), r"expected .*, 'A  b\\n.*', found ' A  b"),
        (with_metaspace("always"), r"expected .*, ' a b ', found 'a b '"),
        (with_metaspace("first"), r"expected .*, ' a b ', found 'a b '"),
    ],
)
def test_a_tokenizer_that_loses_text_is_refused(tmp_path, tokenizer, message):
    path = save(tokenizer, tmp_path)
    with pytest.raises(ConfigError, match=f"^{path}: {message}") as caught:
        HuggingFaceTokenizer.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(with_added(), id="a token that is added"),
        pytest.param(with_added("\n    ", normalized=False), id="a token of white space"),
        pytest.param(normalising(normalizers.NFC()), id="a normaliser that composes characters"),
        pytest.param(with_metaspace("never"), id="spaces written as a sign"),
    ],
)
def test_a_tokenizer_that_keeps_text_is_taken(tmp_path, tokenizer):
    loaded = HuggingFaceTokenizer.load(save(tokenizer, tmp_path))
    text = " a  <think>  é\n\n     b \t"
    assert loaded.decode(loaded.encode([text])[0]) == text


def test_spaces_around_special_tokens_are_text(tmp_path):
    tokenizer = byte_level(BPE({**ALPHABET}, []))
    tokenizer.add_special_tokens([AddedToken("<user>", lstrip=True, rstrip=True)])
    loaded = HuggingFaceTokenizer.load(save(tokenizer, tmp_path))
    assert loaded.decode(loaded.encode(["a  <user>\n\n b"])[0]) == "a  <user>\n\n b"


def test_a_tokenizer_that_lets_text_become_special_is_refused(tmp_path):
    pieces = [(piece, -5.0) for piece in FALLBACK]
    tokenizer = Tokenizer(Unigram([*pieces, ("</s>", 0.0)], 0, True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["</s>"])
    path = save(tokenizer, tmp_path)
    message = "expected text to become ordinary tokens, found the special token '</s>'"
    with pytest.raises(ConfigError, match=f"^{path}: {message}"):
        HuggingFaceTokenizer.load(path)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ConfigError, match=f"{path}: expected a tokenizer, found No such file"):
        HuggingFaceTokenizer.load(path)
    for content in (b"", b"{}", b"[]", b"\xff", b'{"model": 1}'):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"{path}: expected a Hugging Face tokenizer, found"):
            HuggingFaceTokenizer.load(path)


def test_a_worker_gets_the_path_and_refuses_another_file(trained, tmp_path):
    path = tmp_path / "a.json"
    shutil.copy(trained.path, path)
    sent = pickle.dumps(HuggingFaceTokenizer.load(path, eod="<pad>"))
    assert len(sent) < 1000
    received = pickle.loads(sent)  # noqa: S301
    assert received.identity.eod == 2
    assert (
        received.encode(["some words"])[0].tolist() == trained.encode(["some words"])[0].tolist()
    )
    path = tmp_path / "b.json"
    shutil.copy(trained.path, path)
    sent = pickle.dumps(HuggingFaceTokenizer.load(path))
    train_byte_level(path, vocab_size=300)
    with pytest.raises(ConfigError, match=r"expected the fingerprint .*: the file has changed"):
        pickle.loads(sent)  # noqa: S301
