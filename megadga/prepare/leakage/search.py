"""Searches training text for n-grams of held-out sets, and reports the overlap."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tabulate import tabulate

from megadga.arrays import IntArray, TokenArray
from megadga.data.domain import Domain
from megadga.data.files import atomic_write
from megadga.data.folder import DomainSource, open_domain, open_shards
from megadga.data.manifest import Manifest, manifest_path, read_manifest
from megadga.errors import ConfigError, ShardError
from megadga.prepare.leakage.ngrams import HeldOutNgrams, Match, NgramMatches


@dataclass(frozen=True)
class LeakageRule:
    """What counts as leakage.

    Attributes:
        n: Tokens of an n-gram, in [1, 2^31).
        document_share: Part of its n-grams that makes a document leaked, in ``(0, 1]``.
        max_overlap: The largest part of a set's n-grams that one place may hold, in ``[0, 1]``;
            1: all of them.

    Raises:
        ConfigError: If one is out of range.
    """

    n: int = 13
    document_share: float = 0.5
    max_overlap: float = 1.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n: expected at least 1 token, found {self.n}")
        if self.n >= 1 << 31:
            raise ConfigError(f"n: expected less than 2^31 tokens, found {self.n}")
        if not 0.0 < self.document_share <= 1.0:
            raise ConfigError(f"document_share: expected 0 < F <= 1, found {self.document_share}")
        if not 0.0 <= self.max_overlap <= 1.0:
            raise ConfigError(f"max_overlap: expected 0 <= F <= 1, found {self.max_overlap}")


@dataclass(frozen=True)
class Overlap:
    """What of a held-out set occurs in one place.

    Attributes:
        name: The place: a domain, the set's own training split, all domains together.
        num_ngrams: Distinct n-grams of the set that occur there.
        share: The same, of all distinct n-grams of the set, in ``[0, 1]``.
        num_leaked: Documents of the set of which at least ``document_share`` occurs there.
        match: An n-gram to look at; None: there is none, or the place is many domains.
    """

    name: str
    num_ngrams: int
    share: float
    num_leaked: int
    match: Match | None


@dataclass(frozen=True)
class Leakage:
    """What of one held-out set occurs in training text.

    Attributes:
        name: The set.
        rule: What counts as leakage.
        num_documents: Documents of the set.
        num_short: Documents with fewer than ``n`` tokens in a row, which were not looked for.
        num_ngrams: Distinct n-grams of the set.
        domains: Of each domain, the largest share first.
        all_domains: Of all of them together.
        own: Of the set's own training split; None: it has none.
    """

    name: str
    rule: LeakageRule
    num_documents: int
    num_short: int
    num_ngrams: int
    domains: tuple[Overlap, ...]
    all_domains: Overlap
    own: Overlap | None

    @property
    def excesses(self) -> tuple[Overlap, ...]:
        """Places that hold more of the n-grams than the rule allows, the largest share first."""
        own = () if self.own is None else (self.own,)
        places = (*self.domains, self.all_domains, *own)
        beyond = [place for place in places if place.share > self.rule.max_overlap]
        return tuple(sorted(beyond, key=_largest_first))


@dataclass(frozen=True)
class LeakageSearch:
    """A held-out set and where to look for it.

    Attributes:
        name: The set.
        ngrams: What to look for.
        domains: Training splits.
        own: The set's own training split; None: it has none.
        rule: What counts as leakage.
    """

    name: str
    ngrams: HeldOutNgrams
    domains: Sequence[Domain]
    own: Domain | None
    rule: LeakageRule

    @property
    def num_tokens(self) -> int:
        """Tokens to look at."""
        own = 0 if self.own is None else self.own.num_tokens
        return own + sum(domain.num_tokens for domain in self.domains)

    def run(self, progress: Callable[[int], object]) -> Leakage:
        """Look at every token once, a domain after the other.

        Args:
            progress: Called with the tokens looked at since the last call.

        Raises:
            ShardError: If a file is missing or was truncated.
        """
        anywhere = np.zeros(self.ngrams.num_ngrams, dtype=np.bool_)
        overlaps: list[Overlap] = []
        for domain in self.domains:
            found = self.ngrams.find(domain, progress)
            anywhere[found.ngrams] = True
            overlaps.append(self._overlap(domain.name, found))
        own = None
        if self.own is not None:
            found = self.ngrams.find(self.own, progress)
            own = self._overlap(f"{self.name}'s training split", found)
        return Leakage(
            name=self.name,
            rule=self.rule,
            num_documents=self.ngrams.num_documents,
            num_short=self.ngrams.num_short,
            num_ngrams=self.ngrams.num_ngrams,
            domains=tuple(sorted(overlaps, key=_largest_first)),
            all_domains=self._count("all domains", np.flatnonzero(anywhere), None),
            own=own,
        )

    def _overlap(self, name: str, found: NgramMatches) -> Overlap:
        return self._count(name, found.ngrams, self.ngrams.match(found))

    def _count(self, name: str, ngrams: IntArray, match: Match | None) -> Overlap:
        _, shares = self.ngrams.shares(ngrams)
        return Overlap(
            name=name,
            num_ngrams=ngrams.size,
            share=ngrams.size / self.ngrams.num_ngrams,
            num_leaked=int((shares >= self.rule.document_share).sum()),
            match=match,
        )


def plan_search(
    source: DomainSource, domains: Sequence[Domain], rule: LeakageRule
) -> LeakageSearch:
    """Read a set's validation split, and open its training split.

    Args:
        source: The set, in whose manifest there is a validation split.
        domains: Where to look for it: training splits, of any sequence length.
        rule: What counts as leakage.

    Raises:
        ConfigError: If no document has ``n`` tokens in a row.
        ShardError: If the set is missing or damaged, or by another tokenizer than a domain.
    """
    manifest = read_manifest(source.path)
    for domain in domains:
        if domain.tokenizer != manifest.tokenizer:
            raise ShardError(
                f"{manifest_path(source.path)}: tokenizer: expected that of {domain.folder}, "
                f"{domain.tokenizer}, found {manifest.tokenizer}"
            )
    ngrams = HeldOutNgrams(_held_out(source, manifest), n=rule.n, eod=manifest.tokenizer.eod)
    if ngrams.num_ngrams == 0:
        raise ConfigError(
            f"{source.path}: split valid: expected a document with {rule.n} tokens in a row (n), "
            f"found {ngrams.num_documents} shorter ones"
        )
    own = None
    if manifest.num_tokens("train") > 1:
        own = open_domain(source, split="train", sequence_length=1)
    return LeakageSearch(source.name, ngrams, domains, own, rule)


def _held_out(source: DomainSource, manifest: Manifest) -> list[TokenArray]:
    """Return the documents of a set's validation split."""
    documents: list[TokenArray] = []
    for shard in open_shards(source, manifest, "valid"):
        tokens, bounds = shard.tokens, shard.document_starts.tolist()
        documents += (tokens[first:last] for first, last in pairwise(bounds))
    if not documents:
        raise ShardError(f"{source.path}: split valid: expected a document, found none")
    return documents


def _largest_first(overlap: Overlap) -> float:
    return -overlap.share


MAX_ROWS = 40
"""Maximum domains listed in the table, largest overlap first."""


MAX_NAMED = 5
"""Maximum places listed in a message."""


def render_leakage(
    leakage: Leakage, *, decode: Callable[[TokenArray], str] | None = None
) -> Iterator[str]:
    """Yield a table, one line per domain, the largest overlap first.

    Args:
        leakage: What was found.
        decode: Decodes matches to text; None: positions are printed instead.
    """
    yield (
        f"{leakage.name}: {leakage.num_documents:,} held-out documents, "
        f"{leakage.num_ngrams:,} n-grams of {leakage.rule.n} tokens; "
        f"too short to look for: {leakage.num_short:,}"
    )
    listed, rest = leakage.domains[:MAX_ROWS], leakage.domains[MAX_ROWS:]
    own = () if leakage.own is None else (leakage.own,)
    leaked = f"documents with >= {leakage.rule.document_share:.0%}"
    rows = [("domain", "n-grams", "overlap", leaked, "for example")]
    rows += [_row(overlap, decode) for overlap in (*listed, leakage.all_domains, *own)]
    align = ("left", "right", "right", "right", "left")
    table = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    lines = table.split("\n")
    yield from lines[: 1 + len(listed)]
    if rest:
        yield f"and {len(rest):,} more with at most {rest[0].share:.2%}"
    yield from lines[1 + len(listed) :]


def describe_excess(leakage: Leakage) -> str | None:
    """Return a line about places above the allowed overlap, None if there are none."""
    beyond = leakage.excesses
    if not beyond:
        return None
    named = ", ".join(f"{place.share:.2%} in {place.name}" for place in beyond[:MAX_NAMED])
    more = f" and {len(beyond) - MAX_NAMED:,} more" if len(beyond) > MAX_NAMED else ""
    return (
        f"{leakage.name}: expected at most {leakage.rule.max_overlap:.2%} of its held-out n-grams "
        f"in one place, found {named}{more}"
    )


def write_leakage(path: Path, found: Sequence[Leakage]) -> None:
    """Write all numbers, matches and their ids included, as a JSON list with an object per set.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        with atomic_write(path) as file:
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
