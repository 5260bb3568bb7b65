"""Checks names that weights are written by. Knows neither data nor rules."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from difflib import get_close_matches

from megadga.config.places import KeyPath, Mistake

MOST_NAMED = 5
"""Names in an error: there may be thousands."""


def misnamed(
    path: KeyPath,
    weights: Mapping[str, float],
    names: Sequence[str],
    left_out: AbstractSet[str],
    *,
    noun: str = "domain",
) -> Iterator[Mistake]:
    """Yield what is wrong with the names that weights are written by.

    Args:
        path: Key of the weights.
        weights: As they are written.
        names: All that must have one, and may.
        left_out: Names of domains that are too short.
        noun: What the names are of.
    """
    known = set(names)
    unknown = [name for name in weights if name not in known]
    for name in unknown[:MOST_NAMED]:
        if name in left_out:
            expected = "the name of a domain that is not left out (data.too_short)"
            yield Mistake((*path, name), expected, f"{weights[name]} in {name!r}")
            continue
        close = get_close_matches(name, names, n=1)
        hint = repr(close[0]) if close else ""
        yield Mistake((*path, name), f"the name of a {noun}", repr(name), hint)
    if len(unknown) > MOST_NAMED:
        found = f"{len(unknown) - MOST_NAMED} more that are none"
        yield Mistake(path, f"names of {noun}s", found)
    missing = [name for name in names if name not in weights]
    if missing:
        named = ", ".join(missing[:MOST_NAMED]) + (", ..." if len(missing) > MOST_NAMED else "")
        found = f"none for {len(missing)} ({named})"
        yield Mistake(path, f"a weight for each of the {len(names)} {noun}s", found)
