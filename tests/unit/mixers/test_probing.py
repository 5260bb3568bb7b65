"""Sections that say how alignments are measured refuse what makes no sense."""

from collections.abc import Callable
from typing import Any

import pytest

from megadga.mixers.probing import Directional, InFlight, LowRank, LowRankEnergy, Sharded


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((probe, "sequences_per_domain") for probe in (Directional, InFlight, Sharded)),
        *((probe, "specific_sequences") for probe in (Directional, InFlight, Sharded)),
        (Directional, "direction_interval"),
        (InFlight, "direction_interval"),
        (InFlight, "refresh_every"),
        (LowRank, "rank"),
    ],
)
def test_less_than_one_is_refused(value: Callable[..., Any], name: str):
    value(**{name: 1})
    with pytest.raises(ValueError, match=rf"{name}\n.*greater than or equal to 1"):
        value(**{name: 0})


@pytest.mark.parametrize("energy", [0.0, -0.5, 1.01])
def test_a_share_of_the_energy_lies_between_nothing_and_all(energy: float):
    LowRankEnergy(energy=1.0)
    with pytest.raises(ValueError, match=r"energy\n.*(greater than 0|less than or equal to 1)"):
        LowRankEnergy(energy=energy)


def test_a_low_rank_says_how_many_columns_it_has_at_most():
    assert (LowRank(rank=3).most, LowRank(rank=3).share) == (3, None)
    energy = LowRankEnergy(energy=0.5, max_rank=4)
    assert (energy.most, energy.share) == (4, 0.5)
