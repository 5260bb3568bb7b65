"""From folders to domains, with every check that files can fail. Knows no config, no sampling.

On disk: ``FOLDER/<domain>/manifest.json``, ``train-00000.bin``, ``train-00000.idx``, ...,
``valid-00000.bin``, ``valid-00000.idx``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ShardError
from megadga.shards.domain import Domain
from megadga.shards.indexed import IndexedShard
from megadga.shards.manifest import Manifest, ShardEntry, manifest_path, read_manifest


@dataclass(frozen=True, slots=True)
class DomainSource:
    """Where a domain lies, and what it is called.

    Attributes:
        name: What metrics and weights call it.
        path: The folder that holds its manifest.
    """

    name: str
    path: Path


def find_domains(folder: Path) -> tuple[DomainSource, ...]:
    """Return the domains of ``folder``: each folder in it, hidden ones aside, sorted by name.

    Raises:
        ShardError: If there is none, or one has no manifest.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: expected a folder with one folder a domain, found none")
    if manifest_path(folder).exists():
        raise ShardError(
            f"{folder}: expected a folder with one folder a domain, found a domain's own folder"
        )
    paths = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not paths:
        raise ShardError(f"{folder}: expected one folder a domain, found no folder in it")
    for path in paths:
        if not manifest_path(path).exists():
            raise ShardError(f"{manifest_path(path)}: expected a domain's manifest, found no file")
    return tuple(DomainSource(path.name, path) for path in paths)


def open_domains(
    where: Path | Sequence[DomainSource], *, split: str, sequence_length: int
) -> tuple[Domain, ...]:
    """Open one split of several domains, all of one tokenizer.

    Args:
        where: A folder with one folder a domain, or the domains one by one, in the order wanted.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens of a sequence, at least 1.

    Raises:
        ShardError: If a domain cannot be opened, two have one name, or their tokenizers differ.
    """
    sources = find_domains(where) if isinstance(where, Path) else tuple(where)
    counts = Counter(source.name for source in sources)
    for source in sources:
        if counts[source.name] > 1:
            raise ShardError(
                f"{source.path}: expected domains with different names, "
                f"found {counts[source.name]} called {source.name}"
            )
    domains = tuple(
        open_domain(source, split=split, sequence_length=sequence_length) for source in sources
    )
    check_same_tokenizer(domains)
    return domains


def open_domain(source: DomainSource, *, split: str, sequence_length: int) -> Domain:
    """Open one split of one domain. Reads the manifest and one header a shard.

    Args:
        source: The domain's name and folder.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens of a sequence, at least 1.

    Raises:
        ShardError: If a file is missing or damaged, the manifest contradicts a shard, an id is too
            large for the vocabulary, or not even one window of ``S + 1`` tokens fits.
    """
    manifest = read_manifest(source.path)
    shards = open_shards(source, manifest, split)
    num_tokens = manifest.num_tokens(split)
    if num_tokens < sequence_length + 1:
        raise ShardError(
            f"{source.path}: split {split}: expected at least {sequence_length + 1} tokens "
            f"(one window of sequence_length + 1), found {num_tokens}"
        )
    return Domain(
        source.name,
        source.path,
        shards,
        manifest.tokenizer,
        sequence_length=sequence_length,
    )


def check_same_tokenizer(domains: Sequence[Domain]) -> None:
    """Check that all domains were written with one tokenizer.

    Raises:
        ShardError: If two differ; names both folders.
    """
    for domain in domains[1:]:
        first = domains[0]
        if domain.tokenizer != first.tokenizer:
            raise ShardError(
                f"{manifest_path(domain.folder)}: tokenizer: expected that of {first.folder}, "
                f"{first.tokenizer}, found {domain.tokenizer}"
            )


def open_shards(source: DomainSource, manifest: Manifest, split: str) -> tuple[IndexedShard, ...]:
    """Open the shards of one split and check them against their manifest.

    Raises:
        ShardError: If there is no such split, a file is missing or damaged, the manifest
            contradicts a shard, or an id is too large for the vocabulary.
    """
    if split not in manifest.splits:
        found = ", ".join(manifest.splits) or "none"
        raise ShardError(
            f"{manifest_path(source.path)}: splits: expected {split}, found only {found}"
        )
    return tuple(_open_shard(source, entry, manifest) for entry in manifest.splits[split])


def _open_shard(source: DomainSource, entry: ShardEntry, manifest: Manifest) -> IndexedShard:
    shard = IndexedShard.open(source.path / entry.file)
    stated = (entry.documents, entry.tokens)
    if (shard.num_documents, shard.num_tokens) != stated:
        raise ShardError(
            f"{shard.prefix}.idx: expected {entry.documents} documents and {entry.tokens} tokens "
            f"by the manifest, found {shard.num_documents} and {shard.num_tokens}"
        )
    if entry.max_token >= manifest.tokenizer.vocab_size:
        raise ShardError(
            f"{manifest_path(source.path)}: {entry.file}: expected ids below vocab_size = "
            f"{manifest.tokenizer.vocab_size}, found max_token = {entry.max_token}"
        )
    return shard
