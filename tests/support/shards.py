"""Writes small folders of real shards with made-up tokens."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from megadga.arrays import IntArray
from megadga.data.domain import Domain
from megadga.data.examples import Examples, open_chat, open_examples
from megadga.data.folder import DomainSource, open_domain, open_domains
from megadga.data.indexed import IndexedShard, ShardWriter, best_dtype
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    TokenizerIdentity,
    read_manifest,
    write_grouping,
    write_manifest,
)
from megadga.data.targets import mark_targets

VOCABULARY = 64
SEQUENCE_LENGTH = 8
TOKENIZER = TokenizerIdentity(
    kind="sentencepiece", fingerprint="0" * 64, vocab_size=VOCABULARY, eod=2
)


UNEQUAL_LENGTHS = (2, 9, 3, 40, 4, 10, 2, 17, 6)


def write_domain(
    folder: Path,
    *,
    seed: int,
    num_documents: int = 40,
    lengths: Sequence[int] = (),
    chat: bool = False,
    trained: float = 0.4,
) -> Path:
    """Write a domain whose documents prefer a few token ids of their own.

    Args:
        folder: Must not exist.
        seed: Of the documents and of what they prefer.
        num_documents: Of each split.
        lengths: Tokens of the documents, in turn; empty: from 6 to 30.
        chat: Train some tokens of each document alone.
        trained: Share of those, at least one a document.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    liking = rng.dirichlet(np.full(VOCABULARY, 0.05))
    splits = {}
    for split in ("train", "valid"):
        prefix = folder / f"{split}-00000"
        with ShardWriter(prefix, best_dtype(VOCABULARY), spans=chat) as writer:
            for document in range(num_documents):
                size = lengths[document % len(lengths)] - 1 if lengths else rng.integers(5, 30)
                tokens = rng.choice(VOCABULARY, size=size, p=liking)
                ids = np.append(tokens, TOKENIZER.eod)
                writer.add_document(_partly_trained(ids, rng, trained) if chat else ids)
        splits[split] = (writer.entry,)
    write_manifest(folder, Manifest(name=folder.name, tokenizer=TOKENIZER, splits=splits))
    return folder


def _partly_trained(ids: IntArray, rng: np.random.Generator, share: float) -> IntArray:
    trained = rng.random(ids.size) < share
    trained[rng.integers(1, ids.size)] = True
    return mark_targets(ids, trained)


def write_grouped(
    folder: Path, names: Sequence[str], *, seed: int = 0, classifier: str | None = None
) -> Path:
    """Write domains that share shards: the first document of each split, the next two, ..."""
    write_domain(folder, seed=seed, num_documents=len(names) * (len(names) + 1) // 2)
    manifest, bounds = read_manifest(folder), {}
    documents = np.cumsum(np.arange(len(names) + 1))
    for split, (entry,) in manifest.splits.items():
        lengths = IndexedShard.open(folder / entry.file).lengths
        ends = np.cumsum([0, *lengths])
        bounds[split] = Bounds(ends[documents], documents)
    grouping = write_grouping(folder, Grouping(tuple(names), bounds, classifier))
    write_manifest(folder, replace(manifest, grouping=grouping))
    return folder


def write_sets(root: Path, *, num_domains: int) -> Path:
    """Write ``root/domains/d0, d1, ...``, and ``root/specific``, which resembles ``d1``.

    ``root/examples`` and ``root/chat`` do so too, in documents of very unequal lengths, of which
    the latter's are trained in part.
    """
    for index in range(num_domains):
        write_domain(root / "domains" / f"d{index}", seed=index)
    write_domain(root / "specific", seed=1)
    write_domain(root / "examples", seed=1, lengths=UNEQUAL_LENGTHS)
    write_domain(root / "chat", seed=1, lengths=UNEQUAL_LENGTHS, chat=True)
    return root


def open_sets(root: Path, *, split: str = "train") -> tuple[list[Domain], Domain]:
    """Open what ``write_sets`` wrote: the domains and the specific set."""
    domains = open_domains(root / "domains", split=split, sequence_length=SEQUENCE_LENGTH)
    source = DomainSource("specific", root / "specific")
    return list(domains), open_domain(source, split=split, sequence_length=SEQUENCE_LENGTH)


def open_unequal(root: Path, *, split: str = "train") -> Examples:
    """Open ``root/examples`` with each document in sequences of its own."""
    source = DomainSource("specific", root / "examples")
    return open_examples(source, split=split, sequence_length=SEQUENCE_LENGTH)


def open_dialogues(root: Path, *, split: str = "train") -> Examples:
    """Open ``root/chat`` with each document in sequences of its own, and its trained targets."""
    source = DomainSource("specific", root / "chat")
    return open_chat(source, split=split, sequence_length=SEQUENCE_LENGTH)
