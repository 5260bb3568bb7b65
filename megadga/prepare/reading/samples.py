"""Samples of a stream of documents, of bounded size. Knows text by its length alone.

Document number i of the stream has the priority u_i, uniform in [0, 1), a function of the seed and
i: every document has the same chance, wherever it stands. A sample is the documents of the lowest
priorities, so that a smaller one is part of a larger one.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

PRIORITIES = 4096
"""Drawn at a time: one generator a document would take longer than reading it."""


@dataclass(frozen=True, slots=True)
class TextSample:
    """Some documents, and the size of what they were drawn from.

    Attributes:
        texts: In the order of the stream.
        num_characters: Characters of the whole stream.
    """

    texts: tuple[str, ...]
    num_characters: int


def sample_texts(texts: Iterable[str], *, max_characters: int, seed: int) -> TextSample:
    """Return as many texts as there is room for, and one at least, if there is one.

    Args:
        texts: Read to the end; those of the sample alone are held in memory.
        max_characters: Of the sample.
        seed: At least 0.
    """
    kept: list[tuple[float, int, str]] = []  # a heap: the highest priority first
    num_kept = num_characters = 0
    for number, (text, priority) in enumerate(zip(texts, priorities(seed), strict=False)):
        heapq.heappush(kept, (-priority, number, text))
        num_kept += len(text)
        num_characters += len(text)
        while num_kept > max_characters and len(kept) > 1:
            num_kept -= len(heapq.heappop(kept)[2])
    ordered = sorted(kept, key=lambda entry: entry[1])
    return TextSample(tuple(text for _, _, text in ordered), num_characters)


def thin_out(texts: Iterable[str], *, fraction: float, seed: int) -> Iterator[str]:
    """Yield the texts whose priority is below ``fraction``, each with that probability."""
    for text, priority in zip(texts, priorities(seed), strict=False):
        if priority < fraction:
            yield text


def priorities(seed: int) -> Iterator[float]:
    """Yield u_0, u_1, ... without end."""
    for block in count():
        yield from np.random.default_rng((seed, block)).random(PRIORITIES).tolist()
