import io
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from megadga.errors import ConfigError
from megadga.prepare.tokenizers.sentence_piece import SentencePieceTokenizer
from megadga.prepare.training import sample_texts, train_tokenizer
from tests.support.texts import made_up_texts, write_lines


@given(st.text(st.characters(codec="utf-8", exclude_characters="\u2581")))
def test_any_text_comes_back_unchanged(tokenizer, text):
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens) == text


@given(st.lists(st.sampled_from(["</s>", "<s>", "<unk>", "<0x0A>", "\n", " ", "a", "é"])))
def test_no_text_is_encoded_to_a_control_piece(tokenizer, parts):
    (tokens,) = tokenizer.encode(["".join(parts)])
    assert not np.isin(tokens, [0, 1, tokenizer.identity.eod]).any()


def test_eod_has_no_text(tokenizer):
    (tokens,) = tokenizer.encode(["some words"])
    ended = np.append(tokens, tokenizer.identity.eod)
    assert tokenizer.decode(ended) == "some words"


def test_ids_take_two_bytes_and_lie_in_the_vocabulary(tokenizer):
    (tokens,) = tokenizer.encode(["".join(map(chr, range(32, 1000)))])
    assert tokens.dtype == np.uint16
    assert tokens.max() < tokenizer.identity.vocab_size == 400


def test_ids_are_those_that_sentencepiece_lists(tokenizer):
    texts = [*made_up_texts(20), "", "日本 🙂", "\n\n  a"]
    listed = SentencePieceProcessor(model_file=str(tokenizer.path)).encode(texts, out_type=int)
    assert [tokens.tolist() for tokens in tokenizer.encode(texts)] == listed


def test_the_same_texts_give_the_same_model(tokenizer, tmp_path):
    again = train_tokenizer(made_up_texts(200), vocab_size=400, prefix=tmp_path / "other" / "name")
    assert again.identity == tokenizer.identity
    assert again.path == tmp_path / "other" / "name.model"
    assert [path.name for path in again.path.parent.iterdir()] == ["name.model"]


def test_training_prints_nothing(tmp_path, capfd):
    train_tokenizer(made_up_texts(50), vocab_size=300, prefix=tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")


def test_a_vocabulary_too_large_is_refused_with_one_that_fits(tmp_path):
    with pytest.raises(ConfigError, match=r"expected at most (\d+), .*, found 4096") as caught:
        train_tokenizer(["hello world"], vocab_size=4096, prefix=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    largest = int(str(caught.value).split("at most ")[1].split(",")[0])
    assert (
        train_tokenizer(
            ["hello world"], vocab_size=largest, prefix=tmp_path / "a"
        ).identity.vocab_size
        == largest
    )


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (["hello"], 100, r"vocab_size: expected at least 26\d, .*, found 100"),
        (["hello"], 0, r"vocab_size: expected 1 <= N < 2\^31, found 0"),
        ([], 400, "texts: expected some text to train a tokenizer on, found none"),
        (["", "\n"], 400, "texts: expected some text to train a tokenizer on, found none"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, texts, vocab_size, message):
    with pytest.raises(ConfigError, match=message) as caught:
        train_tokenizer(texts, vocab_size=vocab_size, prefix=tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_an_error_in_the_texts_surfaces_as_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{")
    with pytest.raises(ConfigError, match=rf"{path}:1: expected one JSON object"):
        train_tokenizer(sample_texts([path]), vocab_size=400, prefix=tmp_path / "a")


def test_every_input_gives_the_same_share_of_text(tmp_path):
    long = write_lines(tmp_path / "a.jsonl", ["x" * 30] * 10)
    short = write_lines(tmp_path / "b.jsonl", ["y" * 20])
    texts = list(sample_texts([long, short], max_characters=100))
    assert texts == ["x" * 30, "x" * 20, "y" * 20]


def train_foreign(path, **options):
    """A model that some other program has trained."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(made_up_texts(50)),
        model_writer=model,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return path


LOSSLESS = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


def test_a_model_without_byte_pieces_is_refused(tmp_path):
    path = train_foreign(tmp_path / "a.model", vocab_size=100)
    with pytest.raises(ConfigError, match=r"expected 256 byte pieces .*, found 0: .*<unk>"):
        SentencePieceTokenizer.load(path)


def test_a_model_without_end_of_document_is_refused(tmp_path):
    path = train_foreign(tmp_path / "a.model", vocab_size=350, byte_fallback=True, eos_id=-1)
    with pytest.raises(ConfigError, match="expected a piece </s> to end documents, found none"):
        SentencePieceTokenizer.load(path)


@pytest.fixture(scope="module")
def with_pad(tmp_path_factory):
    """A model with a control piece of its own, beside those that every model has."""
    path = tmp_path_factory.mktemp("foreign") / "a.model"
    return train_foreign(path, vocab_size=350, control_symbols=["<end>"], **LOSSLESS)


@pytest.mark.parametrize(
    ("differently", "message"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, r"'A  b\\n\\n\\tc .*', found 'A  b  "),
        ({"normalization_rule_name": "nfkc"}, r"'a\\xa0b .*', found 'a b"),
        ({"normalization_rule_name": "nmt_nfkc_cf"}, r"'A  b.*', found 'a  b"),
        ({"remove_extra_whitespaces": True}, r"'A  b.*', found 'A b"),
        ({"treat_whitespace_as_suffix": True}, r"1f642\.', found .*1f642\. '"),
    ],
)
def test_a_model_that_changes_text_is_refused(tmp_path, differently, message):
    path = train_foreign(tmp_path / "a.model", vocab_size=350, **LOSSLESS | differently)
    with pytest.raises(ConfigError, match=f"^{path}: expected text to be unchanged .*{message}"):
        SentencePieceTokenizer.load(path)


def test_a_model_with_a_space_of_its_own_and_pieces_of_its_own_keeps_text(tmp_path):
    path = train_foreign(
        tmp_path / "a.model", vocab_size=350, user_defined_symbols=["<think>", "\n "], **LOSSLESS
    )
    model = SentencePieceTokenizer.load(path)
    text = "  a <think>\n  b \n"
    assert model.decode(model.encode([text])[0]) == text


def test_the_end_of_documents_can_be_named(with_pad):
    assert SentencePieceTokenizer.load(with_pad).identity.eod == 2
    assert SentencePieceTokenizer.load(with_pad, eod="</s>").identity.eod == 2
    named = SentencePieceTokenizer.load(with_pad, eod="<end>")
    assert named.identity.eod == 3
    assert pickle.loads(pickle.dumps(named)).identity == named.identity  # noqa: S301


@pytest.mark.parametrize(
    ("eod", "found"),
    [("<stop>", "no such piece"), ("<unk>", "an ordinary piece"), ("<0x0A>", "an ordinary piece")],
)
def test_an_end_of_documents_that_is_no_control_piece_is_refused(with_pad, eod, found):
    with pytest.raises(ConfigError, match=f"eod: expected .*, found '{eod}', {found}$"):
        SentencePieceTokenizer.load(with_pad, eod=eod)


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "a.model"
    with pytest.raises(ConfigError, match=f"{path}: expected a tokenizer, found No such file"):
        SentencePieceTokenizer.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=f"{path}: expected a sentencepiece model, found "):
        SentencePieceTokenizer.load(path)


def test_a_worker_gets_the_path_and_refuses_another_model(tokenizer, tmp_path):
    path = tmp_path / "a.model"
    shutil.copy(tokenizer.path, path)
    sent = pickle.dumps(SentencePieceTokenizer.load(path))
    assert len(sent) < 1000
    assert pickle.loads(sent).identity == tokenizer.identity  # noqa: S301
    path = tmp_path / "b.model"
    shutil.copy(tokenizer.path, path)
    sent = pickle.dumps(SentencePieceTokenizer.load(path))
    train_tokenizer(made_up_texts(60), vocab_size=300, prefix=tmp_path / "b")
    with pytest.raises(ConfigError, match=r"expected the fingerprint .*: the file has changed"):
        pickle.loads(sent)  # noqa: S301
