"""docs/laws.md has the numbers of the laws in docs/laws."""

import pytest

from megadga.laws.file import read_law
from tests.support.ranks import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGE = (DOCS / "laws.md").read_text(encoding="utf-8")


def test_the_file_is_of_24_proxies():
    assert len(read_law(DOCS / "laws" / "demo.json").runs) == 24


@pytest.mark.parametrize("name", ["general", "specific=language_reference", "domain=type_stubs"])
def test_errors_on_held_out_mixtures_are_on_the_page(name: str):
    files = ("demo", "demo-exponential", "demo-linear")
    laws = [read_law(DOCS / "laws" / f"{each}.json") for each in files]
    found = [next(each for each in law.held_out if each.set == name) for law in laws]
    errors = " | ".join(f"{each.mean_absolute_error:.4f}" for each in found)
    assert found[0].rank_interval is not None
    low, high = found[0].rank_interval
    ranks = " | ".join(f"{each.rank_correlation:.3f}" for each in found[1:])
    assert (
        f" | {errors} | {found[0].constant_error:.4f} "
        f"| {found[0].rank_correlation:.3f} ({low:.3f} to {high:.3f}) | {ranks} |"
    ) in next(row for row in PAGE.splitlines() if row.startswith(f"| `{name}`"))


def test_the_power_law_ranks_held_out_mixtures_of_every_set_above_0_9():
    law = read_law(DOCS / "laws" / "demo.json")
    assert law.law.type == "power"
    assert min(each.rank_correlation for each in law.held_out) > 0.9
