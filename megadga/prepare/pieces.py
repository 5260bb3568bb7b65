"""Cuts long documents into pieces of bounded length. Knows tokens, not their text."""

from megadga.arrays import TokenArray


def cut_pieces(tokens: TokenArray, piece_tokens: int | None) -> list[TokenArray]:
    """Return a document's tokens in consecutive pieces, as views.

    Args:
        tokens: Ids without EOD, shape ``(n,)``, ``n >= 1``.
        piece_tokens: Tokens of every piece but the last, at least 1; None: one piece.
    """
    if piece_tokens is None:
        return [tokens]
    return [tokens[start : start + piece_tokens] for start in range(0, tokens.size, piece_tokens)]
