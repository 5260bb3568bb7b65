"""Names windows by domain and index. Knows no tokens and no files."""

from dataclasses import dataclass

from megadga.arrays import IntArray


@dataclass(frozen=True, eq=False)
class Selection:
    """Windows to read, in order.

    Attributes:
        domains: Which domain each comes from, in ``[0, K)``, shape ``(N,)``.
        sequences: Which window of that domain, already permuted, shape ``(N,)``.

    Raises:
        ValueError: If the two shapes are not one ``(N,)``.
    """

    domains: IntArray
    sequences: IntArray

    def __post_init__(self) -> None:
        if self.domains.ndim != 1 or self.domains.shape != self.sequences.shape:
            raise ValueError(
                f"selection: expected domains and sequences of one shape (N,), found "
                f"{self.domains.shape} and {self.sequences.shape}"
            )

    def __len__(self) -> int:
        return self.domains.size
