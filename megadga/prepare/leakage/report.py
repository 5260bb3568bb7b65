"""What a search for leakage found, as people read it. Knows no shards."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from megadga.arrays import TokenArray
from megadga.errors import ConfigError
from megadga.prepare.leakage.ngrams import Match
from megadga.prepare.leakage.search import Leakage, Overlap
from megadga.shards.files import written_whole

MOST_ROWS = 40
"""Domains that the table lists, the worst ones: there may be thousands."""
MOST_NAMED = 5
"""Places that a complaint names."""


def render_leakage(
    leakage: Leakage, *, decode: Callable[[TokenArray], str] | None = None
) -> Iterator[str]:
    """Yield a table, one line a domain, the largest overlap first.

    Args:
        leakage: What was found.
        decode: Shows matches as text; None: where they are is shown instead.
    """
    yield (
        f"{leakage.name}: {leakage.num_documents:,} held-out documents, "
        f"{leakage.num_ngrams:,} n-grams of {leakage.rule.n} tokens; "
        f"too short to look for: {leakage.num_short:,}"
    )
    listed, rest = leakage.domains[:MOST_ROWS], leakage.domains[MOST_ROWS:]
    own = () if leakage.own is None else (leakage.own,)
    leaked = f"documents with >= {leakage.rule.document_share:.0%}"
    rows = [("domain", "n-grams", "overlap", leaked, "for example")]
    rows += [_row(overlap, decode) for overlap in (*listed, leakage.all_domains, *own)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{widths[0]}}  {ngrams:>{widths[1]}}  {share:>{widths[2]}}  "
        f"{documents:>{widths[3]}}  {example}".rstrip()
        for name, ngrams, share, documents, example in rows
    ]
    yield from lines[: 1 + len(listed)]
    if rest:
        yield f"and {len(rest):,} more with at most {rest[0].share:.2%}"
    yield from lines[1 + len(listed) :]


def complain(leakage: Leakage) -> str | None:
    """Return in one line which places hold more than the rule allows; None: no place does."""
    beyond = leakage.excesses
    if not beyond:
        return None
    named = ", ".join(f"{place.share:.2%} in {place.name}" for place in beyond[:MOST_NAMED])
    more = f" and {len(beyond) - MOST_NAMED:,} more" if len(beyond) > MOST_NAMED else ""
    return (
        f"{leakage.name}: expected at most {leakage.rule.max_overlap:.2%} of its held-out n-grams "
        f"in one place, found {named}{more}"
    )


def write_leakage(path: Path, found: Sequence[Leakage]) -> None:
    """Write all numbers, matches and their ids included, as a JSON list with an object a set.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        with written_whole(path) as file:
            file.write(json.dumps([asdict(leakage) for leakage in found], indent=2).encode())
            file.write(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: expected to write it, found {error.strerror}") from error


def _row(overlap: Overlap, decode: Callable[[TokenArray], str] | None) -> tuple[str, ...]:
    match = overlap.match
    return (
        overlap.name,
        f"{overlap.num_ngrams:,}",
        f"{overlap.share:.2%}",
        f"{overlap.num_leaked:,}",
        "" if match is None else _example(match, decode),
    )


def _example(match: Match, decode: Callable[[TokenArray], str] | None) -> str:
    if decode is not None:
        return repr(decode(np.array(match.tokens, dtype=np.int64)))
    held_out = f"document {match.document:,} from token {match.offset:,}"
    return f"{held_out}, there from token {match.position:,}"
