"""Values that say how alignments are measured refuse what makes no sense."""

from collections.abc import Callable
from typing import Any

import pytest

from megadga.probes.methods import InFlight, LowRank, ProbeBudget


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (ProbeBudget, "sequences_per_domain"),
        (ProbeBudget, "specific_sequences"),
        (LowRank, "rank"),
        (LowRank, "interval"),
        (InFlight, "refresh_every"),
    ],
)
def test_less_than_one_is_refused(value: Callable[..., Any], name: str):
    value(**{name: 1})
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, found 0"):
        value(**{name: 0})


@pytest.mark.parametrize("energy", [0.0, -0.5, 1.01])
def test_a_share_of_the_energy_lies_between_nothing_and_all(energy: float):
    LowRank(energy=1.0)
    with pytest.raises(ValueError, match=f"energy: expected 0 < energy <= 1, found {energy}"):
        LowRank(energy=energy)
