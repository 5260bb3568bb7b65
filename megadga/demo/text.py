"""Texts as values: cut to documents, compared by runs of words. Knows no file and no domain."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

OVERLAP_WORDS = 13
"""Equal words in a row that make two texts overlap, as in GPT-3's decontamination."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Sizes:
    """How much is taken of one domain.

    Attributes:
        domain: Characters of the whole domain, at most.
        file: Characters of one file, at most, so that no file makes up a domain.
        document: Characters of one document; longer files become several documents.
    """

    domain: int = 1_500_000
    file: int = 60_000
    document: int = 8_000


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def word_runs(text: str) -> Iterator[tuple[str, ...]]:
    """Yield every ``OVERLAP_WORDS`` consecutive words of a text, in lower case."""
    of_text = words(text)
    return zip(*(of_text[start:] for start in range(OVERLAP_WORDS)), strict=False)


def split_documents(text: str, size: int) -> Iterator[str]:
    """Yield consecutive parts of a text that end with a line where one ends in their second half.

    Args:
        text: Any; parts of nothing but white space are left out.
        size: Characters of a part, at most.
    """
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.rfind("\n", start + size // 2, end) + 1 or end
        if not text[start:end].isspace():
            yield text[start:end]
        start = end


def take_documents(
    files: Iterable[str], *, sizes: Sizes, avoid: frozenset[tuple[str, ...]]
) -> list[str]:
    """Return a domain's documents: parts of its files, in order, up to the domain's size.

    Args:
        files: Whole texts; read no further than needed.
        sizes: How much to take.
        avoid: Runs of words that no document may contain (``word_runs``).
    """
    documents: list[str] = []
    left = sizes.domain
    for text in files:
        for document in split_documents(text[: sizes.file], sizes.document):
            if len(document) > left:
                return documents
            if avoid.isdisjoint(word_runs(document)):
                documents.append(document)
                left -= len(document)
    return documents


def without_repetitions(texts: Iterable[str]) -> list[str]:
    """Return texts without the paragraphs that repeat earlier words.

    A paragraph (text between blank lines) goes if keeping it would give its text a run of words
    that was kept before, in this text or an earlier one.

    Args:
        texts: What several of them have stays in the first.

    Returns:
        As many texts, in order, ``""`` where nothing is left; no two share a run of words.
    """
    seen: set[tuple[str, ...]] = set()
    distinct: list[str] = []
    for text in texts:
        kept: list[str] = []
        last_words: list[str] = []
        for paragraph in text.split("\n\n"):
            runs = set(word_runs(" ".join((*last_words, paragraph))))
            if seen.isdisjoint(runs):
                seen |= runs
                kept.append(paragraph)
                last_words = words(" ".join((*last_words, paragraph)))[1 - OVERLAP_WORDS :]
        distinct.append("\n\n".join(kept).strip())
    return distinct


def shuffled(names: Iterable[str]) -> Sequence[str]:
    """Return names in an order without meaning that is the same everywhere: by their SHA-256."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
