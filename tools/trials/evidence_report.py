"""Puts tables of results into pages of Markdown, each between two comments that name it."""

import re
from collections.abc import Callable, Sequence

from megadga.errors import ConfigError
from trials.evidence_results import (
    TOKENS,
    Result,
    cost_table,
    gain_table,
    general_table,
    sensitivity_table,
    summary_table,
)

_PLACE = re.compile(
    r"<!-- evidence: (?P<name>.*?) -->\n(?P<table>.*?)<!-- end of evidence -->", re.DOTALL
)
TABLES: dict[str, Callable[[Sequence[Result]], str]] = {
    **{f"gains {tokens}": lambda r, tokens=tokens: gain_table(r, tokens) for tokens in TOKENS},
    "general": general_table,
    "cost": cost_table,
    "sensitivity": sensitivity_table,
    "summary": summary_table,
}
"""What may stand in a page, by name."""


def rebuilt(text: str, results: Sequence[Result], *, name: str) -> str:
    """Return a page with its tables made anew.

    Args:
        text: The page.
        results: Of all runs.
        name: Of the page, for errors.

    Raises:
        ConfigError: If the page names a table that there is not, or none at all.
    """
    found = [place[1] for place in _PLACE.finditer(text)]
    if not found:
        raise ConfigError(f"{name}: expected a line '<!-- evidence: NAME -->', found none")
    if unknown := set(found) - TABLES.keys():
        raise ConfigError(
            f"{name}: expected one of {', '.join(TABLES)} as evidence, found {min(unknown)!r}"
        )

    def filled(place: re.Match[str]) -> str:
        table = TABLES[place[1]](results)
        return f"<!-- evidence: {place['name']} -->\n\n{table}\n<!-- end of evidence -->"

    return _PLACE.sub(filled, text)
