"""docs/laws.md has the numbers of the law that docs/laws/demo.json is."""

import pytest

from megadga.laws.file import read_law
from tests.support.ranks import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGE = (DOCS / "laws.md").read_text(encoding="utf-8")


def test_the_file_is_of_24_proxies():
    assert len(read_law(DOCS / "laws" / "demo.json").runs) == 24


@pytest.mark.parametrize("name", ["general", "specific=language_reference", "domain=type_stubs"])
def test_errors_on_held_out_mixtures_are_on_the_page(name: str):
    laws = [read_law(DOCS / "laws" / f"{each}.json") for each in ("demo", "demo-linear")]
    exponential, linear = (next(each for each in law.held_out if each.set == name) for law in laws)
    row = (
        f"| `{name}` | {exponential.mean_absolute_error:.4f} | {linear.mean_absolute_error:.4f} "
        f"| {exponential.constant_error:.4f} | {exponential.rank_correlation:.3f} "
        f"| {linear.rank_correlation:.3f} |"
    )
    assert row in PAGE
