"""Summaries and single documents of a folder of shards, as `inspect_shards` prints them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from tabulate import tabulate

from megadga.arrays import TokenArray
from megadga.data.documents import check_index, document_at, iterate_ids
from megadga.data.files import Problems
from megadga.data.folder import DomainSource, find_domains, open_shards
from megadga.data.indexed import IndexedShard, ids_path
from megadga.data.labels import Label, Labels
from megadga.data.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    read_grouping,
    read_manifest,
)
from megadga.data.targets import BoolArray, TrainedSpans, spans_path
from megadga.errors import ShardError


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split of one domain, or of all domains in a grouped folder.

    Attributes:
        name: Name of the domain or of the folder.
        split: ``"train"`` or ``"valid"``.
        num_documents: Number of documents.
        num_tokens: Number of tokens.
        fingerprint: SHA-256 of the tokenizer's model as hex digits.
        shared: Tokens of each domain of a grouped folder; empty for a single domain.
        num_trained: Number of tokens in trained spans; None without.
    """

    name: str
    split: str
    num_documents: int
    num_tokens: int
    fingerprint: str
    shared: tuple[int, ...] = ()
    num_trained: int | None = None

    def num_sequences(self, sequence_length: int) -> int:
        """Return the number of windows of ``sequence_length + 1`` tokens."""
        sizes = self.shared or (self.num_tokens,)
        return sum(max(size - 1, 0) // sequence_length for size in sizes)


@dataclass(frozen=True, slots=True, eq=False)
class StoredDocument:
    """A document as stored in its shard.

    Attributes:
        tokens: Token ids, shape ``(n,)``.
        document_id: Id of its source record; None if ids were not kept.
        trained: Whether each token is in a trained span, shape ``(n,)``; None without spans.
    """

    tokens: TokenArray
    document_id: str | None
    trained: BoolArray | None = None


def summarize(manifest: Manifest) -> tuple[SplitSummary, ...]:
    """Return a summary of each split from its manifest."""
    return tuple(
        SplitSummary(
            manifest.name,
            split,
            manifest.num_documents(split),
            manifest.num_tokens(split),
            manifest.tokenizer.fingerprint,
            num_trained=manifest.num_trained(split),
        )
        for split in manifest.splits
    )


def find_sources(folder: Path) -> tuple[DomainSource, ...]:
    """Return the domains in a folder of domains, or the single domain of its own folder.

    Raises:
        ShardError: If the folder is neither.
    """
    if manifest_path(folder).exists():
        return (DomainSource(folder.resolve().name, folder),)
    return find_domains(folder)


def inspect_domain(source: DomainSource) -> tuple[SplitSummary, ...]:
    """Return a summary of each split of a domain, after opening every shard.

    Raises:
        ShardError: If the manifest or a shard is missing or damaged.
    """
    manifest = read_manifest(source.path)
    for split in manifest.splits:
        open_shards(source, manifest, split)
    summaries = summarize(replace(manifest, name=source.name))
    if manifest.grouping is None:
        return summaries
    bounds = read_grouping(source.path, manifest).bounds
    return tuple(
        replace(each, shared=tuple(np.diff(bounds[each.split].tokens).tolist()))
        for each in summaries
    )


def render_table(
    summaries: Sequence[SplitSummary],
    *,
    sequence_length: int | None = None,
    labels: Mapping[str, Label] | None = None,
) -> str:
    """Return a table with one line per split, followed by one line per grouped split.

    Args:
        summaries: The rows.
        sequence_length: S; adds a column with the number of windows of ``S + 1`` tokens.
        labels: What is in domains, by name; adds a column if one of these has a label.
    """
    columns = [
        ("domain", *(one.name for one in summaries)),
        ("split", *(one.split for one in summaries)),
        ("documents", *(f"{one.num_documents:,}" for one in summaries)),
        ("tokens", *(f"{one.num_tokens:,}" for one in summaries)),
        ("tokenizer", *(one.fingerprint[:12] for one in summaries)),
    ]
    align = ["left", "left", "right", "right", "left"]
    if any(one.num_trained is not None for one in summaries):
        trained = ("-" if n is None else f"{n:,}" for n in (one.num_trained for one in summaries))
        columns.insert(-1, ("trained", *trained))
        align.insert(-1, "right")
    if sequence_length is not None:
        windows = (f"{one.num_sequences(sequence_length):,}" for one in summaries)
        columns.insert(-1, ("windows", *windows))
        align.insert(-1, "right")
    known = labels or {}
    texts = [known[one.name].text if one.name in known else "" for one in summaries]
    if any(texts):
        columns.append(("label", *texts))
        align.append("left")
    # The titles as a row: as headers they would widen every column by two.
    rows = list(zip(*columns, strict=True))
    table = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    return "\n".join((table, *(_describe_shared(one) for one in summaries if one.shared)))


MAX_LABELS = 20
"""Labels that are listed; there may be hundreds of thousands."""


def render_labels(labels: Labels) -> str:
    """Return a table of the first clusters of the level above, or of domains without.

    Args:
        labels: At least one.
    """
    shown = labels.parents or labels.domains
    rows = [(name, each.text) for name, each in islice(shown.items(), MAX_LABELS)]
    table = tabulate(rows, tablefmt="plain", disable_numparse=True)
    more = len(shown) - MAX_LABELS
    return f"{table}\nand {more:,} more" if more > 0 else table


def _describe_shared(summary: SplitSummary) -> str:
    """Return one line with the sizes of the domains of a grouped split."""
    sizes = np.array(summary.shared)
    low, median, high = (f"{int(size):,}" for size in np.quantile(sizes, (0.0, 0.5, 1.0)))
    return (
        f"{summary.name}/{summary.split}: {sizes.size:,} domains, {int((sizes == 0).sum()):,} "
        f"empty; tokens per domain: {low} to {high}, median {median}"
    )


def read_document(
    source: DomainSource, tokenizer: TokenizerIdentity, *, split: str, index: int
) -> StoredDocument:
    """Return one document of a split by its index over all shards.

    Args:
        source: The domain.
        tokenizer: The tokenizer that the caller will decode with.
        split: ``"train"`` or ``"valid"``.
        index: In ``[0, number of documents of the split)``.

    Raises:
        ShardError: If there is no such document, the tokenizer is a different one, or a file
            is missing or damaged.
    """
    manifest = read_manifest(source.path)
    if manifest.tokenizer != tokenizer:
        raise ShardError(
            f"{manifest_path(source.path)}: tokenizer: expected {tokenizer}, "
            f"found {manifest.tokenizer}"
        )
    remaining = index
    shards = open_shards(source, manifest, split)
    for shard, entry in zip(shards, manifest.splits[split], strict=True):
        if 0 <= remaining < shard.num_documents:
            return _read(shard, remaining, entry)
        remaining -= shard.num_documents
    raise ShardError(
        f"{source.path}: split {split}: expected a document in "
        f"[0, {manifest.num_documents(split)}), found {index}"
    )


def _read(shard: IndexedShard, index: int, entry: ShardEntry) -> StoredDocument:
    problems = Problems()
    if not check_index(shard, problems):
        raise ShardError(problems.lines[0])
    tokens, trained = document_at(shard, index), None
    if entry.spans_sha256 is not None:
        spans = TrainedSpans.read(spans_path(shard.prefix), shard.num_tokens)
        (trained,) = spans.trained(shard.document_starts[index : index + 1], tokens.size)
    if entry.ids_sha256 is None:
        return StoredDocument(tokens, None, trained)
    path = ids_path(shard.prefix)
    if (found := next(islice(iterate_ids(path), index, None), None)) is None:
        raise ShardError(f"{path}: expected {shard.num_documents} ids, found at most {index}")
    return StoredDocument(tokens, found, trained)


TRAINED_MARKS = (">>>", "<<<")
"""Around each trained span of a dialogue."""


def show_trained(
    tokens: TokenArray,
    trained: BoolArray,
    *,
    decode: Callable[[TokenArray], str],
    special: Mapping[str, int],
) -> str:
    """Return the text of a dialogue with its trained spans between marks.

    Args:
        tokens: Its ids, shape ``(n,)``.
        trained: Whether each is trained, shape ``(n,)``.
        decode: From ids to text.
        special: Ids of special tokens by name, which are shown.
    """
    names = {token: name for name, token in special.items()}
    cuts = np.flatnonzero(np.diff(trained)) + 1
    shown: list[str] = []
    for span, is_trained in zip(
        np.split(tokens, cuts), trained[np.concatenate(([0], cuts))], strict=True
    ):
        begin, end = TRAINED_MARKS if is_trained else ("", "")
        places = np.flatnonzero(np.isin(span, list(names)))
        parts = np.split(span, np.union1d(places, places + 1))
        text = (names.get(int(p[0])) or decode(p) for p in parts if p.size)
        shown += [begin, *text, end]
    return "".join(shown)
