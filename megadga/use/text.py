"""Text to a model's tokens and back, without special tokens; bytes of text in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import TokenArray
from megadga.data.targets import BoolArray
from megadga.prepare.tokenizers.round_trips import Coder


@dataclass(frozen=True, eq=False)
class ModelTokenizer:
    """A model's tokenizer.

    Attributes:
        coder: Text to ids and back; text that spells a special token is ordinary text.
        end: Id of the token that ends a document.
        start: Id of the token that a text begins after; None: the model has none.
        before: Ids that the tokenizer itself puts before every text, as transformers has it.
    """

    coder: Coder
    end: int
    start: int | None
    before: tuple[int, ...] = ()

    @property
    def context(self) -> int:
        """Id that the first token of a document is predicted from."""
        return self.end if self.start is None else self.start

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self.coder.encode([text])[0].tolist()

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some ids."""
        return self.coder.decode(np.asarray(tokens, dtype=np.int64))


@final
class TransformersCoder:
    """A tokenizer of transformers; a ``Coder``.

    Args:
        tokenizer: Made with ``split_special_tokens``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text, without special tokens."""
        encoded = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [np.array(ids, dtype=np.int64) for ids in encoded["input_ids"]]

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids; special tokens have none."""
        return self._tokenizer.decode(
            tokens.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


@final
class TextBytes:
    """Counts the bytes of text, in UTF-8, that windows of tokens predict.

    Consecutive windows share a token, the last target of one and the first input of the next:
    documents are decoded whole, across windows, and characters may be cut anywhere.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._document: list[int] = []
        self._skipped = 0  # bytes of its first token, which is not predicted
        self._total = 0

    def add(self, window: TokenArray, trained: BoolArray) -> None:
        """Add the targets of a window.

        Args:
            window: Ids without padding, an input and targets, shape ``(n + 1,)``.
            trained: Which of them are targets, if they follow another, same shape.
        """
        ids: list[int] = window.tolist()
        if not trained[1:].all():
            self._end()
            self._total += self._count_spans(ids, trained)
            return
        if not self._document or self._document[-1] != ids[0]:
            self._end()
            if ids[0] != self._tokenizer.end:
                self._document = ids[:1]
                self._skipped = self._count(ids[:1])
        for token in ids[1:]:
            self._document.append(token)
            if token == self._tokenizer.end:
                self._end()

    def total(self) -> int:
        """Return the bytes of all windows so far."""
        return self._total + self._count(self._document) - self._skipped

    def _end(self) -> None:
        self._total = self.total()
        self._document, self._skipped = [], 0

    def _count_spans(self, ids: list[int], trained: BoolArray) -> int:
        """Return the bytes of the tokens that are trained, each span behind what precedes it."""
        changes = np.flatnonzero(np.diff([False, *trained[1:].tolist(), False])) + 1
        spans = changes.reshape(-1, 2).tolist()
        return sum(self._count(ids[:end]) - self._count(ids[:begin]) for begin, end in spans)

    def _count(self, tokens: list[int]) -> int:
        return len(self._tokenizer.decode(tokens).encode()) if tokens else 0
