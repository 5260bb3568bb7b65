"""Which domain a text belongs to: the seam between clusterings and builds."""

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
        """What tells two classifiers apart, hexadecimal."""
        ...

    def assign(self, texts: Sequence[str]) -> IntArray:
        """Return each text's domain, in ``[0, K)``, shape ``(len(texts),)``."""
        ...
