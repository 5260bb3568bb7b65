"""What the numbers are measured against."""

from collections.abc import Iterator, Mapping, Sequence

from .case import FULL_PROBES, LOW_RANK_PROBES, Row, Section

_COST = {
    "directional": 1.05,
    "directional low rank": 0.8,
    "in_flight": 1.45,
    "in_flight low rank": 1.12,
}
_DIRECTIONAL_ON_ZERO_3 = 1.2
_FLATNESS = 1.03
_NUMBERS = 1e-4  # of the parameters' size: each sequence gets a number of 8 bytes
_EXTRA_MEMORY = {**dict.fromkeys(FULL_PROBES, 1.0), **dict.fromkeys(LOW_RANK_PROBES, 0.1)}


def verdicts(rows: Mapping[Section, Sequence[Row]]) -> list[Row]:
    """Return each bar, what was found in its worst row, and whether it is met."""
    return [
        *_cost_bars(rows["cost"]),
        *_memory_bars(rows["memory"]),
        *_communication_bars(rows["communication"]),
        *_domain_bars(rows["domains"]),
    ]


def _bar(name: str, limit: float, found: Sequence[float]) -> Iterator[Row]:
    """Yield one verdict, or nothing where nothing was measured."""
    if found:
        worst = max(found)
        yield {"bar": name, "at_most": limit, "found": worst, "met": worst <= limit}


def _cost_bars(rows: Sequence[Row]) -> Iterator[Row]:
    several = [row for row in rows if row["ranks"] > 1]
    for probe, limit in _COST.items():
        by_stage = {row["stage"]: row["ratio"] for row in several if row["probe"] == probe}
        for stage, ratio in by_stage.items():
            apart = probe == "directional" and stage == 3
            bar = _DIRECTIONAL_ON_ZERO_3 if apart else limit
            yield from _bar(f"{probe}, ZeRO-{stage}: time of a sequence", bar, [ratio])
    sharded = {_key(row): row["ratio"] for row in rows if row["probe"] == "sharded"}
    found = [row["ratio"] / sharded[_key(row)] for row in rows if row["probe"] == "directional"]
    yield from _bar("directional: time against sharded", 1.0, found)


def _memory_bars(rows: Sequence[Row]) -> Iterator[Row]:
    for probe, directions in _EXTRA_MEMORY.items():
        limit = directions + _NUMBERS
        found = [row["extra_in_parameters"] for row in rows if row["probe"] == probe]
        yield from _bar(f"{probe}: memory beyond a step's, in parameters", limit, found)


def _communication_bars(rows: Sequence[Row]) -> Iterator[Row]:
    found = [
        abs(row["communicated"]["reduce_scatter_base"] / row["expected_reduce_scatter_bytes"] - 1)
        for row in rows
        if "expected_reduce_scatter_bytes" in row
    ]
    yield from _bar("sharded: bytes reduced, off what is worked out by hand", 0.0, found)


def _domain_bars(rows: Sequence[Row]) -> Iterator[Row]:
    found = [row["ratio_to_fewest"] for row in rows if row["probe"] == "directional"]
    yield from _bar("directional: time against that with fewest domains", _FLATNESS, found)


def _key(row: Row) -> tuple[object, ...]:
    return row["model"], row["ranks"], row["stage"], row["precision"]
