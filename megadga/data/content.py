"""What a domain's tokens are, by digests: to tell one that grew from one that was replaced.

The content of a domain is its sequence of *pieces*, each with a checksum: the shards of its own
folder, or its range of a grouped folder. A digest of the first pieces identifies them, so that a
digest that was kept is found again among those of a domain to which pieces were added.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray
from megadga.data.folder import ShardFolder
from megadga.data.manifest import ShardEntry

DIGITS = 16
"""Hexadecimal digits of a digest: 64 bits."""


@final
@dataclass(frozen=True, slots=True)
class Prefix:
    """The first pieces of a domain.

    Attributes:
        tokens: Their number of tokens.
        digest: Of their checksums, in ``[0, 2**64)``.
    """

    tokens: int
    digest: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.digest:0{DIGITS}x}"


def shard_prefixes(entries: Sequence[ShardEntry]) -> tuple[Prefix, ...]:
    """Return the prefixes of a list of shards, from the empty one to the whole."""
    digest, tokens = hashlib.sha256(), 0
    prefixes = [_prefix(0, digest.hexdigest())]
    for entry in entries:
        tokens += entry.tokens
        digest.update(f"{entry.tokens} {entry.bin_sha256}\n".encode())
        if entry.spans_sha256 is not None:
            digest.update(f"{entry.spans_sha256}\n".encode())
        prefixes.append(_prefix(tokens, digest.hexdigest()))
    return tuple(prefixes)


def _prefix(tokens: int, digits: str) -> Prefix:
    return Prefix(tokens, int(digits[:DIGITS], 16))


@final
@dataclass(frozen=True, eq=False)
class DomainContents:
    """The content of the domains of a run, ``K`` of them.

    Attributes:
        names: The domains.
        tokens: Training tokens of each, shape ``(K,)``.
        digests: Of each, uint64, shape ``(K,)``.
    """

    names: tuple[str, ...]
    tokens: IntArray
    digests: NDArray[np.uint64]


def read_prefixes(
    folders: Sequence[ShardFolder], names: Collection[str], *, split: str = "train"
) -> dict[str, tuple[Prefix, ...]]:
    """Return the non-empty prefixes of domains, the whole last, by name in order.

    Args:
        folders: Result of ``read_folders``.
        names: The domains; others are left out.
        split: ``"train"`` or ``"valid"``.
    """
    found: dict[str, tuple[Prefix, ...]] = {}
    for folder in folders:
        if folder.manifest.grouping is None:
            if folder.source.name in names:
                found[folder.source.name] = shard_prefixes(folder.manifest.splits[split])[1:]
        else:
            found |= {name: each for name, each in _ranges(folder, split) if name in names}
    return found


def _ranges(folder: ShardFolder, split: str) -> Iterator[tuple[str, tuple[Prefix, ...]]]:
    """Yield the one piece of each domain of a grouped folder: a range of its shards."""
    whole = shard_prefixes(folder.manifest.splits[split])[-1]
    bounds = folder.domains.bounds[split].tokens.tolist()
    for index, name in enumerate(folder.domains.names):
        begin, end = bounds[index], bounds[index + 1]
        digits = hashlib.sha256(f"{whole} {begin} {end}\n".encode()).hexdigest()
        yield name, (_prefix(end - begin, digits),)


def contents_of(prefixes: Mapping[str, tuple[Prefix, ...]]) -> DomainContents:
    """Return the whole content of each domain."""
    last = [each[-1] for each in prefixes.values()]
    return DomainContents(
        names=tuple(prefixes),
        tokens=np.array([each.tokens for each in last], dtype=np.int64),
        digests=np.array([each.digest for each in last], dtype=np.uint64),
    )


Status = Literal["kept", "grown", "replaced", "entered"]
"""What became of a domain; replaced: it left, and another of the same name entered."""


@final
@dataclass(frozen=True, eq=False)
class ContentChange:
    """How domains follow from earlier ones.

    Attributes:
        names: The domains afterwards, ``K'`` of them.
        statuses: Of each, ``K'`` of them.
        sources: Which of the earlier ones each is, -1 for one that enters, shape ``(K',)``.
        left: Names of the earlier ones that are not among them, also of those replaced.
    """

    names: tuple[str, ...]
    statuses: tuple[Status, ...]
    sources: IntArray
    left: tuple[str, ...]

    @property
    def is_none(self) -> bool:
        """Whether all domains are the same, in the same order."""
        return not self.left and all(each == "kept" for each in self.statuses) and self.in_order

    @property
    def in_order(self) -> bool:
        """Whether all domains are those before, in their order; they may have grown."""
        return not self.left and bool((self.sources == np.arange(self.sources.size)).all())

    def with_status(self, status: Status) -> tuple[str, ...]:
        """Return the names of the domains of a status, in order."""
        pairs = zip(self.names, self.statuses, strict=True)
        return tuple(name for name, each in pairs if each == status)


def compare_contents(
    before: DomainContents, after: Mapping[str, tuple[Prefix, ...]]
) -> ContentChange:
    """Return how domains follow from earlier ones, by name and content.

    Args:
        before: The earlier domains.
        after: The prefixes of the domains afterwards, by name, in order.
    """
    tokens, digests = before.tokens.tolist(), before.digests.tolist()
    places = {name: index for index, name in enumerate(before.names)}
    statuses: list[Status] = []
    sources: list[int] = []
    for name, prefixes in after.items():
        source = places.get(name, -1)
        status: Status = "entered"
        if source >= 0:
            old = Prefix(tokens[source], digests[source])
            status = "kept" if prefixes[-1] == old else "replaced"
            if status == "replaced" and old in prefixes:
                status = "grown"
        statuses.append(status)
        sources.append(source if status in ("kept", "grown") else -1)
    used = {before.names[source] for source in sources if source >= 0}
    left = tuple(name for name in before.names if name not in used)
    return ContentChange(tuple(after), tuple(statuses), np.array(sources, dtype=np.int64), left)
