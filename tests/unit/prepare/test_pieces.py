import pickle

import pytest

from megadga.errors import ConfigError
from megadga.prepare.pieces import text_cutter
from tests.support.texts import made_up_texts


@pytest.mark.parametrize("piece_tokens", [1, 7, 10_000])
def test_pieces_are_of_at_most_so_many_tokens_and_together_the_text(tokenizer, piece_tokens):
    cut = text_cutter(tokenizer, piece_tokens)
    for text, tokens in zip(
        made_up_texts(5), tokenizer.encode(made_up_texts(5)), strict=True
    ):  # fmt: skip
        pieces = cut([text])
        assert len(pieces) == -(-tokens.size // piece_tokens)
        assert "".join(pieces) == text


def test_pieces_of_one_text_come_after_those_of_another(tokenizer):
    cut = text_cutter(tokenizer, 5)
    first, second = made_up_texts(2)
    assert cut([first, second]) == cut([first]) + cut([second])


def test_without_arguments_documents_stay_whole():
    assert text_cutter(None, None)(["a b", "c"]) == ["a b", "c"]


def test_what_cuts_can_be_sent_to_a_worker(tokenizer):
    texts = made_up_texts(3)
    sent = pickle.loads(pickle.dumps(text_cutter(tokenizer, 5)))  # noqa: S301
    assert sent(texts) == text_cutter(tokenizer, 5)(texts)


def test_one_argument_is_refused(tokenizer):
    for arguments in ((tokenizer, None), (None, 5)):
        with pytest.raises(ConfigError, match="expected both or neither, found one"):
            text_cutter(*arguments)


def test_pieces_without_tokens_are_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"^piece_tokens: expected at least 1, found 0$"):
        text_cutter(tokenizer, 0)
