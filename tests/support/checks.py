"""Measurements without the check at construction, where a test has had it made already."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import final

import pytest

from megadga.probes import measuring
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import ProbeSequenceSampler


@final
class _Checked:
    """Stands where `ProbeCheck` does."""

    def __init__(
        self, passes: ProbePasses, draws: Sequence[ProbeSequenceSampler], *, derivatives: bool
    ) -> None:
        """Do nothing."""

    def refresh(self) -> None:
        """Do nothing: the same parameters train."""


@contextmanager
def checked_already(known: bool = True) -> Generator[None]:
    """Make measurements without a check, if their kind has been checked on an equal engine.

    A check takes longer than a measurement, and what follows from a failed one has tests of its
    own.
    """
    with pytest.MonkeyPatch.context() as patch:
        if known:
            patch.setattr(measuring, "ProbeCheck", _Checked)
        yield
