"""Colours and dashes of domains and runs, equal in all figures of a report."""

from collections.abc import Sequence

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#117733",
    "#aa3377",
    "#332288",
    "#b8860b",
    "#44aa99",
    "#882255",
    "#6699cc",
    "#666633",
    "#cc6677",
    "#222222",
)
"""Distinguishable with red-green colour blindness, and dark enough for text on white."""


COLOURS_ON_DARK = (
    "#4db2ec",
    "#ff8a3d",
    "#4fc27a",
    "#e07ab5",
    "#9a8cf0",
    "#e6b93f",
    "#6fdccb",
    "#d9679b",
    "#a9c7ea",
    "#b5b56b",
    "#f29aa6",
    "#e4e4e4",
)
"""The same hues, light enough for text on a dark background."""


DASHES = ("-", "--", ":", "-.")


NUM_STYLES = len(COLOURS) * len(DASHES)
"""Domains that differ in colour or dashes."""


def line_style(name: str, names: Sequence[str]) -> tuple[str, str]:
    """Return colour and dashes of a domain's line, equal in all runs over the same domains.

    They depend on the rank of its name, not on its weight.
    """
    place = sorted(names).index(name)
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def style_places(names: Sequence[str], leading: Sequence[int]) -> tuple[int, ...]:
    """Return the place of each domain's style; colour and dashes follow as in ``line_style``.

    With more domains than styles, those that are shown together would often look alike by the
    ranks of their names: then the leading domains come first.

    Args:
        names: Of the ``K`` domains.
        leading: Their indices, those with the largest weights first.
    """
    by_name = sorted(range(len(names)), key=names.__getitem__)
    order = by_name if len(names) <= NUM_STYLES else leading
    places = [0] * len(names)
    for place, domain in enumerate(order):
        places[domain] = place % NUM_STYLES
    return tuple(places)
