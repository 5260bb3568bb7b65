"""Loss, bits per byte and perplexity of a set, against sums by hand."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from megadga.data.targets import PADDING, mark_targets
from megadga.use.scoring import SetScore, score_set
from megadga.use.sets import Windows
from tests.support.letters import LetterDecoder, letter_model, loss_of


@dataclass(frozen=True)
class FewWindows:
    """Windows of letters; an ``EvaluatedSet``.

    Attributes:
        rows: The windows, all of the same length.
        document_bytes: Of the documents of each window; None: that is not known.
    """

    rows: Sequence[Sequence[int]]
    document_bytes: int | None = None
    name: str = "few"
    split: str | None = "valid"

    @property
    def sequence_length(self) -> int:
        return len(self.rows[0]) - 1

    @property
    def knows_bytes(self) -> bool:
        return self.document_bytes is not None

    def windows(self, batch_size: int, stages: object) -> Iterator[Windows]:
        for first in range(0, len(self.rows), batch_size):
            rows = self.rows[first : first + batch_size]
            yield Windows(np.array(rows), len(rows) * (self.document_bytes or 0))


def ids(text: str, *, length: int) -> list[int]:
    return [*map(ord, text), *[PADDING] * (length - len(text))]


def nats_of(text: str) -> float:
    return sum(loss_of(ord(one), ord(other)) for one, other in pairwise(text))


ROWS = (ids("abcdef", length=6), ids("fgéij", length=6))
NATS = nats_of("abcdef") + nats_of("fgéij")


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_score_is_of_all_targets_of_all_windows(batch_size):
    decoder = LetterDecoder()
    score = score_set(letter_model(decoder), FewWindows(ROWS), batch_size=batch_size)

    assert (score.name, score.split, score.sequence_length) == ("few", "valid", 5)
    assert (score.windows, score.tokens) == (2, 9)
    assert score.nats == NATS
    assert len(decoder.shapes) == (2 if batch_size == 1 else 1)
    assert score.loss == NATS / 9
    assert score.perplexity == pytest.approx(math.exp(NATS / 9))


def test_bytes_are_those_of_the_targets_text_where_documents_are_not_known():
    score = score_set(letter_model(LetterDecoder()), FewWindows(ROWS), batch_size=2)
    # The first letter is an input alone, é has two bytes, and the windows share f.
    assert (score.text_bytes, score.bytes_of) == (len("bcdefgéij".encode()), "tokens")
    assert score.bits_per_byte == pytest.approx(NATS / math.log(2) / 10)


def test_bytes_of_whole_documents_are_taken_as_they_are_known():
    score = score_set(letter_model(LetterDecoder()), FewWindows(ROWS, 50), batch_size=1)
    assert (score.text_bytes, score.bytes_of) == (100, "documents")
    assert score.bits_per_byte == pytest.approx(NATS / math.log(2) / 100)


def test_without_a_tokenizer_there_are_no_bytes():
    model = letter_model(LetterDecoder(), with_tokenizer=False)
    score = score_set(model, FewWindows(ROWS), batch_size=1)
    assert (score.text_bytes, score.bytes_of, score.bits_per_byte) == (None, None, None)
    assert score.nats == NATS


def test_tokens_of_a_dialogue_that_are_no_targets_count_for_nothing():
    trained = np.array([False, False, True, True, False, True])
    row = mark_targets(np.array(ids("abcdéf", length=6)), trained)

    score = score_set(letter_model(LetterDecoder()), FewWindows([row.tolist()]), batch_size=1)

    assert score.tokens == 3
    assert score.nats == nats_of("bc") + nats_of("cd") + nats_of("éf")
    assert score.text_bytes == len("cdf")


def score(**changes: object) -> SetScore:
    fields: dict[str, object] = {
        "name": "few", "split": None, "sequence_length": 4, "windows": 2, "tokens": 8,
        "nats": 4.0, "text_bytes": 16, "bytes_of": "tokens",
    }  # fmt: skip
    return SetScore(**{**fields, **changes})  # type: ignore[arg-type]


def test_all_of_it_is_json():
    assert json.loads(json.dumps(score().as_json(), allow_nan=False)) == {
        "set": "few",
        "split": None,
        "sequence_length": 4,
        "windows": 2,
        "tokens": 8,
        "bytes": 16,
        "bytes_of": "tokens",
        "loss": 0.5,
        "bits_per_byte": pytest.approx(0.25 / math.log(2)),
        "perplexity": pytest.approx(math.exp(0.5)),
        "nats": 4.0,
    }


@pytest.mark.parametrize("nats", [8 * 701.0, math.inf, math.nan])
def test_what_is_not_finite_is_null_in_json(nats):
    found = score(nats=nats, text_bytes=None)
    assert found.perplexity == math.inf or math.isnan(found.perplexity)
    written = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert written["perplexity"] is None
    assert written["loss"] == (701.0 if math.isfinite(nats) else None)
    assert written["bits_per_byte"] is None
