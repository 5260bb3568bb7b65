"""Bytes of text in tokens, and text that is written while tokens come in."""

import numpy as np
import pytest
import torch

from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.training import train_tokenizer
from megadga.use.generating import TextStream
from megadga.use.text import ModelTokenizer, TextBytes
from tests.support.huggingface import bytes_alone
from tests.support.texts import made_up_texts

TEXTS = ["é 中文 🙂", "a  b\n", "🙂" * 9, " leading", *made_up_texts(2, seed=4)]


@pytest.fixture(scope="module", params=["sentencepiece", "bytes"])
def tokenizer(request, tmp_path_factory) -> ModelTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "sentencepiece":
        ours = train_tokenizer(made_up_texts(50), vocab_size=400, prefix=folder / "small")
    else:
        ours = load_tokenizer(bytes_alone(folder / "tokenizer.json", eod=300))
    eod = ours.identity.eod
    return ModelTokenizer(ours, end=eod, start=eod)


@pytest.mark.parametrize("length", [1, 5, 64, 10_000])
def test_bytes_are_those_of_the_text_wherever_windows_cut_it(tokenizer, length):
    ids = [token for text in TEXTS for token in (*tokenizer.encode(text), tokenizer.end)]
    stream = np.array([tokenizer.end, *ids])
    counted = TextBytes(tokenizer)

    for begin in range(0, stream.size - 1, length):
        window = stream[begin : begin + length + 1]
        counted.add(window, np.ones(window.size, dtype=bool))

    assert counted.total() == sum(len(text.encode()) for text in TEXTS)


def test_the_first_token_is_no_target_unless_it_is_before_a_document(tokenizer):
    ids = tokenizer.encode("the end")
    counted = TextBytes(tokenizer)

    counted.add(np.array([*ids, tokenizer.end]), np.ones(len(ids) + 1, dtype=bool))

    assert counted.total() == len("the end") - len(tokenizer.decode(ids[:1]))


def test_tokens_that_are_inputs_alone_do_not_count(tokenizer):
    asked, told = tokenizer.encode("🙂 what?"), tokenizer.encode(" a 中 b.")
    trained = [*(False for _ in asked), *(True for _ in told)] * 2
    counted = TextBytes(tokenizer)

    counted.add(np.array([*asked, *told] * 2), np.array(trained))

    assert counted.total() == 2 * len(" a 中 b.".encode())


def test_text_is_written_by_whole_characters(tokenizer):
    prompt, ids = tokenizer.encode("the 🙂"), tokenizer.encode("the 🙂 is 中文")
    pieces: list[str] = []
    stream = TextStream(tokenizer, prompt, pieces.append, ends=[tokenizer.end])

    stream.put(torch.tensor([prompt]))
    for token in [*ids[len(prompt) :], tokenizer.end]:
        stream.put(torch.tensor([token]))
    stream.end()

    assert "".join(pieces) == stream.text == " is 中文"
    assert len(pieces) > 3
    assert not any("\ufffd" in piece for piece in pieces)
