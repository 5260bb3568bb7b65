"""What a scorer of documents is, so that all are run, resumed and stored alike."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray

Measure = Callable[[Sequence[IntArray]], NDArray[Any]]
"""From some documents' tokens (marked where they are not trained, see ``targets``) to an array
with a row for each; picklable, and a function of these documents alone."""


Measured = Callable[[], Iterator[NDArray[Any]]]
"""Returns what a measure found of all documents, in their order, part by part; each call anew."""


class Scorer(Protocol):
    """Scores documents: measures each, in one pass or several, and makes scores of all of that."""

    @property
    def description(self) -> str:
        """What scores depend on, beside the documents, in one line.

        Equal for scores that can be compared with each other; kept in the manifest.
        """
        ...

    @property
    def relative(self) -> bool:
        """Whether a document's score depends on the others that are scored with it."""
        ...

    @property
    def passes(self) -> Sequence[Measure]:
        """What is measured of the documents, one pass over all of them after the other."""
        ...

    def finish(self, measured: Sequence[Measured]) -> FloatArray:
        """Return the documents' scores, finite, the higher the sooner kept, shape ``(n,)``.

        Args:
            measured: What each pass found.
        """
        ...


def joined(measured: Measured) -> NDArray[Any]:
    """Return what a pass found in one array."""
    return np.concatenate(list(measured()))
