"""Checks that a tokenizer gives text back as it was."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from megadga.arrays import TokenArray
from megadga.errors import ConfigError

SPACE_SIGN = "\u2581"
"""Sentencepiece's symbol for the space; in text it is decoded as a space."""


_WHITE_SPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2002\u2009\u2028\u2029\u202f\u3000"


_INVISIBLE = "\0\1\x08\x1b\x7f\xad\u200b\u200c\u200d\u200e\u2060\ufe0f\ufeff"


# Each with and without composed characters; the last ones are composed differently from NFC.
_COMPOSED = (
    "é e\u0301 Å A\u030a ế e\u0302\u0301 각 \u1100\u1161\u11a8 が か\u3099 \u212b \u2126 \uf900"
)


_COMPATIBLE = "½ ² ① ﬁ Ａ １ ｶ ㎏ ™ … ſ ℌ ﷺ \u2f00 \u0132 \u01c4"


_SCRIPTS = (
    "ß ẞ İ ı ς Ω Привет 中文 日本語 한국어 שלום العربية ٣ हिन्दी ไทย 🙂 👩\u200d👧 🇩🇪 "
    "\ue000 \ufffd \U0010ffff"
)


_PUNCTUATION = "“a” ‘b’ «c» – — ‐ − ″ ‚ ` ``d'' \\n <0x0A> &amp; %20"


_TEXTS = (
    f"A  b\n\n\tc   d {''.join(map(chr, range(33, 127)))} é 中文 🙂.",
    *(f"a{sign}b {sign} c {sign * 2}d" for sign in _WHITE_SPACE),
    *(f"a{sign}b {sign} c" for sign in _INVISIBLE),
    "def f():\n    if x:\n        return  1\n\n\n\tpass\r\n\r\n  end",
    *(f"{space}a b{space}" for space in (" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ")),
    *(" a", "a ", "\na", "a\n", " ", "   ", "\n", "\n\n", "\t", "\r\n", "a", "A", "é", " .", ". "),
    *_COMPOSED.split(" "),
    *_COMPATIBLE.split(" "),
    *(_COMPOSED, _COMPATIBLE, _SCRIPTS, _PUNCTUATION),
)


_SHOWN = 12
"""Characters of a difference shown in an error, preceded by half as many."""


class Coder(Protocol):
    """Text to token ids and back."""

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text."""
        ...

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids."""
        ...


def check_round_trips(path: Path, coder: Coder, *, names: Iterable[str]) -> None:
    """Check that a tokenizer preserves text in a round trip.

    Canonical composition (NFC) is accepted, as the result is canonically equivalent. Documents
    that it changes are found by ``find_change``.

    Args:
        path: The tokenizer's file, for the error.
        coder: The tokenizer.
        names: Tokens that text may spell: special, control, added and user-defined ones.

    Raises:
        ConfigError: If text comes back changed.
    """
    texts = difficult_texts(names)
    for text, tokens in zip(texts, coder.encode(texts), strict=True):
        decoded = coder.decode(tokens)
        if _is_same(text, decoded) or _is_same(unicodedata.normalize("NFC", text), decoded):
            continue
        raise ConfigError(
            f"{path}: expected text to be unchanged by a round trip, {_show_change(text, decoded)}"
        )


def difficult_texts(names: Iterable[str]) -> list[str]:
    """Return texts that tokenizers are known to change, or to treat differently from each other.

    Args:
        names: Tokens that text may spell: special, control, added and user-defined ones.
    """
    return [*_TEXTS, *_around(names)]


def find_change(coder: Coder, text: str, tokens: TokenArray) -> str | None:
    """Return a description of how a round trip changes a text, None if it does not.

    U+2581 may be decoded as a space.

    Args:
        coder: The tokenizer.
        text: What was encoded.
        tokens: Its ids, without EOD, shape ``(n,)``.
    """
    decoded = coder.decode(tokens)
    return None if _is_same(text, decoded) else _show_change(text, decoded)


def _around(names: Iterable[str]) -> Iterator[str]:
    """Yield texts that have each name between spaces, newlines and letters, and alone."""
    for name in names:
        spelt = name.replace(SPACE_SIGN, " ")
        yield f"a  {spelt}  b\n\n{spelt}\n\n    c{spelt}d {spelt}\t{spelt}"
        yield f"  {spelt}  "


def _is_same(text: str, decoded: str) -> bool:
    return decoded in (text, text.replace(SPACE_SIGN, " "))


def _show_change(text: str, decoded: str) -> str:
    pairs = enumerate(zip(text, decoded, strict=False))
    shortest = min(len(text), len(decoded))
    start = next((index for index, (one, other) in pairs if one != other), shortest)
    cut = slice(max(start - _SHOWN // 2, 0), start + _SHOWN)
    # Escaped to ASCII, as differing characters may look alike or be invisible.
    return f"{text[cut]!a}, found {decoded[cut]!a}"
