"""Protocol of classifiers that assign texts to domains."""

from collections.abc import Sequence
from typing import Protocol

from megadga.arrays import IntArray


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
