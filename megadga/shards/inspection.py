"""What people want to see of a domain's folder. Knows ids, not their text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megadga.arrays import TokenArray
from megadga.errors import ShardError
from megadga.shards.folder import DomainSource, find_domains, open_shards
from megadga.shards.manifest import Manifest, TokenizerIdentity, manifest_path, read_manifest
from megadga.shards.verify import verify_domain


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split of one domain.

    Attributes:
        domain: The domain's name.
        split: ``"train"`` or ``"valid"``.
        num_documents: Documents in it.
        num_tokens: Tokens in it.
        fingerprint: SHA-256 of the tokenizer's model, hexadecimal.
    """

    domain: str
    split: str
    num_documents: int
    num_tokens: int
    fingerprint: str

    def num_sequences(self, sequence_length: int) -> int:
        """Return the windows of ``sequence_length + 1`` tokens in it, neighbours sharing one."""
        return max(self.num_tokens - 1, 0) // sequence_length


def summarize(manifest: Manifest) -> tuple[SplitSummary, ...]:
    """Return what a manifest says of each split."""
    return tuple(
        SplitSummary(
            manifest.name,
            split,
            manifest.num_documents(split),
            manifest.num_tokens(split),
            manifest.tokenizer.fingerprint,
        )
        for split in manifest.splits
    )


def find_sources(folder: Path) -> tuple[DomainSource, ...]:
    """Return the domains of a folder of domains, or the one whose own folder this is.

    Raises:
        ShardError: If it is neither.
    """
    if manifest_path(folder).exists():
        return (DomainSource(folder.resolve().name, folder),)
    return find_domains(folder)


def inspect_domain(source: DomainSource, *, verify: bool) -> tuple[SplitSummary, ...]:
    """Return what a domain holds, split by split, after opening every shard.

    Args:
        source: The domain.
        verify: Read every byte too, and compare checksums.

    Raises:
        ShardError: If the manifest or a shard is missing or damaged.
    """
    manifest = read_manifest(source.path)
    for split in manifest.splits:
        open_shards(source, manifest, split)
    if verify:
        verify_domain(source.path)
    return summarize(replace(manifest, name=source.name))


def render_table(summaries: Sequence[SplitSummary], *, sequence_length: int | None = None) -> str:
    """Return a table for people, one line a split.

    Args:
        summaries: The lines.
        sequence_length: S: adds a column with the windows of ``S + 1`` tokens.
    """
    columns = {
        "domain": [one.domain for one in summaries],
        "split": [one.split for one in summaries],
        "documents": [f"{one.num_documents:,}" for one in summaries],
        "tokens": [f"{one.num_tokens:,}" for one in summaries],
    }
    if sequence_length is not None:
        columns["windows"] = [f"{one.num_sequences(sequence_length):,}" for one in summaries]
    columns["tokenizer"] = [one.fingerprint[:12] for one in summaries]
    padded: list[list[str]] = []
    for title, cells in columns.items():
        width = max(map(len, (title, *cells)))
        pad = str.rjust if title in ("documents", "tokens", "windows") else str.ljust
        padded.append([pad(cell, width) for cell in (title, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def read_document(
    source: DomainSource, tokenizer: TokenizerIdentity, *, split: str, index: int
) -> TokenArray:
    """Return the ids of one document, counted from 0 through all shards of a split.

    Args:
        source: The domain.
        tokenizer: What the caller is going to decode the ids with.
        split: ``"train"`` or ``"valid"``.
        index: In ``[0, documents of the split)``.

    Raises:
        ShardError: If there is no such document, it was written with another tokenizer, or a file
            is missing or damaged.
    """
    manifest = read_manifest(source.path)
    if manifest.tokenizer != tokenizer:
        raise ShardError(
            f"{manifest_path(source.path)}: tokenizer: expected {tokenizer}, "
            f"found {manifest.tokenizer}"
        )
    remaining = index
    for shard in open_shards(source, manifest, split):
        if 0 <= remaining < shard.num_documents:
            return shard.document(remaining)
        remaining -= shard.num_documents
    raise ShardError(
        f"{source.path}: split {split}: expected a document in "
        f"[0, {manifest.num_documents(split)}), found {index}"
    )
