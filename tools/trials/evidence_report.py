"""Puts tables of results into pages of Markdown, each between two comments that name it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ConfigError
from trials.evidence_clusters import ClusterResult, clusters_table, read_clusters, rises_table
from trials.evidence_continued import ContinuedResult, continued_table, read_continued
from trials.evidence_results import (
    HELD_BACK,
    TARGETS,
    TOKENS,
    Result,
    cost_table,
    gain_table,
    general_table,
    read_record,
    sensitivity_table,
    summary_table,
)


@dataclass(frozen=True)
class Evidence:
    """Results of all runs.

    Attributes:
        targets: Of the experiments `targets` and `sensitivity`.
        larger: Of the experiment `larger`.
        clusters: Of the experiment `clusters`.
        continued: Of the experiment `continued`.
    """

    targets: Sequence[Result]
    larger: Sequence[Result]
    clusters: Sequence[ClusterResult]
    continued: Sequence[ContinuedResult]


def read_evidence(folder: Path) -> Evidence:
    """Return the results in a folder's records, ``targets.json``, ``clusters.json`` and others.

    Raises:
        ConfigError: If one of them is missing or no record.
    """
    return Evidence(
        targets=read_record(folder / "targets.json"),
        larger=read_record(folder / "larger.json"),
        clusters=read_clusters(folder / "clusters.json"),
        continued=read_continued(folder / "continued.json"),
    )


_PLACE = re.compile(
    r"<!-- evidence: (?P<name>.*?) -->\n(?P<table>.*?)<!-- end of evidence -->", re.DOTALL
)
TABLES: dict[str, Callable[[Evidence], str]] = {
    **{f"gains {kept}": lambda e, kept=kept: gain_table(e.targets, kept) for kept in TOKENS},
    **{
        f"held back {kept}": lambda e, kept=kept: gain_table(e.targets, kept, HELD_BACK)
        for kept in TOKENS
    },
    **{
        f"larger {kept}": lambda e, kept=kept: gain_table(e.larger, kept, (*TARGETS, *HELD_BACK))
        for kept in TOKENS
    },
    "larger cost": lambda evidence: cost_table(evidence.larger),
    "general": lambda evidence: general_table(evidence.targets),
    "cost": lambda evidence: cost_table(evidence.targets),
    "sensitivity": lambda evidence: sensitivity_table(evidence.targets),
    "summary": lambda evidence: summary_table(evidence.targets),
    "clusters": lambda evidence: clusters_table(evidence.clusters),
    "clusters rises": lambda evidence: rises_table(evidence.clusters),
    "continued": lambda evidence: continued_table(evidence.continued),
}
"""What may stand in a page, by name."""


def rebuilt(text: str, evidence: Evidence, *, name: str) -> str:
    """Return a page with its tables made anew.

    Args:
        text: The page.
        evidence: Of all runs.
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
        table = TABLES[place[1]](evidence)
        return f"<!-- evidence: {place['name']} -->\n\n{table}\n<!-- end of evidence -->"

    return _PLACE.sub(filled, text)
