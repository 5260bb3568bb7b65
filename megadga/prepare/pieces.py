"""Splits long documents into pieces of bounded length; what assigns texts to domains."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from megadga.arrays import IntArray, TokenArray
from megadga.errors import ConfigError
from megadga.prepare.tokenizers.base import Tokenizer

TextCutter = Callable[[Sequence[str]], list[str]]
"""Splits non-empty documents into the texts to cluster; picklable."""


class Classifier(Protocol):
    """Assigns texts to domains; picklable, for worker processes."""

    @property
    def names(self) -> Sequence[str]:
        """The domains' names, ``K`` of them, all different."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits, different for different classifiers."""
        ...

    def assign(self, texts: Sequence[str]) -> IntArray:
        """Return each text's domain, in ``[0, K)``, shape ``(len(texts),)``."""
        ...


def text_cutter(tokenizer: Tokenizer | None, piece_tokens: int | None) -> TextCutter:
    """Return a function that splits documents into pieces; the identity without arguments.

    Args:
        tokenizer: What counts the tokens.
        piece_tokens: Tokens of every piece but a document's last, at least 1.

    Raises:
        ConfigError: If only one of the two is given, or ``piece_tokens`` is below 1.
    """
    if (tokenizer is None) != (piece_tokens is None):
        raise ConfigError("piece_tokens and tokenizer: expected both or neither, found one")
    if tokenizer is None or piece_tokens is None:
        return list
    if piece_tokens < 1:
        raise ConfigError(f"piece_tokens: expected at least 1, found {piece_tokens}")
    return partial(cut_texts, tokenizer=tokenizer, piece_tokens=piece_tokens)


def cut_pieces(tokens: TokenArray, piece_tokens: int | None) -> list[TokenArray]:
    """Return a document's tokens in consecutive pieces, as views.

    Args:
        tokens: Ids without EOD, shape ``(n,)``, ``n >= 1``.
        piece_tokens: Tokens of every piece but the last, at least 1; None: one piece.
    """
    if piece_tokens is None:
        return [tokens]
    return [tokens[start : start + piece_tokens] for start in range(0, tokens.size, piece_tokens)]


def cut_texts(texts: Sequence[str], *, tokenizer: Tokenizer, piece_tokens: int) -> list[str]:
    """Return the texts' pieces, one text after the other, decoded back to text.

    Args:
        texts: None of them empty.
        tokenizer: What counts the tokens.
        piece_tokens: Tokens of every piece but a text's last, at least 1.
    """
    return [
        tokenizer.decode(piece)
        for tokens in tokenizer.encode(texts)
        for piece in cut_pieces(tokens, piece_tokens)
    ]
