"""How many bad records are too many, in every tool that reads documents. Knows no formats."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from megadga.errors import ConfigError

MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class MaxBad:
    """The most bad records that may be left out.

    Attributes:
        count: Records, at least 0; None: any number.
        share: Of all records, in [0, 1].
    """

    count: int | None = 0
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"100"`` or ``"0.1%"``.

        Raises:
            ConfigError: If it is neither.
        """
        number = text.removesuffix("%")
        if text.isdecimal() and len(text) <= MOST_DIGITS:
            return cls(int(text))
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) <= 100.0:
            return cls(None, float(number) / 100.0)
        raise ConfigError(
            f"max_bad: expected a number or a share such as 0.1%, found {text[:80]!r}"
        )

    def __str__(self) -> str:
        """Return what ``parse`` reads."""
        return f"{100.0 * self.share:g}%" if self.count is None else str(self.count)

    def exceeded(self, num_bad: int, num_records: int, *, complete: bool) -> bool:
        """Return whether so many are too many.

        Args:
            num_bad: Bad records so far.
            num_records: Records so far.
            complete: Whether these are all; a share says something only then.
        """
        if self.count is not None:
            return num_bad > self.count
        return complete and num_bad > self.share * num_records


@final
class BadRecords:
    """Counts the records that are left out while documents are read, and stops at too many.

    A build lists them instead (``pipeline.rejects``): it goes on later, and others here do not.

    Args:
        max_bad: How many are too many.
    """

    def __init__(self, max_bad: MaxBad = MaxBad()) -> None:
        self._max_bad = max_bad
        self._first: str | None = None
        self._num_bad = self._num_records = 0

    def add(self, file: Path, line: int, reason: str) -> None:
        """Count a bad record.

        Raises:
            ConfigError: If there are too many now; names the first.
        """
        self._num_records += 1
        self._num_bad += 1
        self._first = self._first or f"{file}:{line}: {reason}"
        self._check(complete=False)

    def add_good(self) -> None:
        """Count a record that is not bad."""
        self._num_records += 1

    def check_all(self) -> None:
        """Check the count once nothing is left to read: a share says something only then.

        Raises:
            ConfigError: If there were too many; names the first.
        """
        self._check(complete=True)

    def describe(self) -> Iterator[str]:
        """Yield a line on what was left out, if something was."""
        if self._first is not None:
            yield (
                f"left out {self._num_bad:,} of {self._num_records:,} records, "
                f"the first: {self._first}"
            )

    def _check(self, *, complete: bool) -> None:
        if self._max_bad.exceeded(self._num_bad, self._num_records, complete=complete):
            assert self._first is not None, "none is not too many"
            if self._num_bad == 1:
                raise ConfigError(self._first)
            raise ConfigError(
                f"{self._first}; found {self._num_bad:,} bad records among {self._num_records:,}, "
                f"expected at most max_bad = {self._max_bad}"
            )
