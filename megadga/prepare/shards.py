"""Documents to shards: encoded, split, shuffled once, written. Knows no model and no training."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray, TokenArray
from megadga.errors import ConfigError, ShardError
from megadga.prepare.documents import Document, iterate_documents
from megadga.prepare.inputs import DomainInput
from megadga.prepare.parallel import OrderedPool
from megadga.prepare.tokenizer import Tokenizer
from megadga.shards.create import create_domain
from megadga.shards.manifest import Manifest
from megadga.shards.writer import best_dtype

CHUNK_CHARACTERS = 1 << 18


@dataclass(frozen=True, slots=True)
class Recipe:
    """How documents become the splits of a domain.

    Attributes:
        text_key: Where the objects of JSON lines have their text.
        valid_fraction: Documents held out for validation, in [0, 1), on average. Which ones
            depends on their text alone: copies stay together, and a document keeps its side
            whatever the seed and whatever is added to the input.
        seed: Of the shuffle, at least 0.

    Raises:
        ConfigError: If a value is out of range.
    """

    text_key: str = "text"
    valid_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.valid_fraction < 1.0:
            raise ConfigError(f"valid_fraction: expected 0 <= F < 1, found {self.valid_fraction}")
        if self.seed < 0:
            raise ConfigError(f"seed: expected at least 0, found {self.seed}")


@dataclass(frozen=True, slots=True)
class BuiltDomain:
    """What became of one input.

    Attributes:
        manifest: What was written.
        num_empty: Documents without text, which were left out.
    """

    manifest: Manifest
    num_empty: int


def build_shards(
    inputs: Sequence[DomainInput],
    tokenizer: Tokenizer,
    output: Path,
    recipe: Recipe = Recipe(),
    *,
    workers: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[BuiltDomain, ...]:
    """Write one folder a domain under ``output``; the same bytes for any number of workers.

    Each document is ended by EOD, and the documents of each split are shuffled. The tokens of one
    domain at a time are held in memory. Domains are written one after the other, each whole or not
    at all; after an error those that were finished stay.

    Args:
        inputs: What each domain is built from.
        tokenizer: Picklable if there are several workers.
        output: Made if needed; it may hold other domains already.
        recipe: Text key, validation split and seed.
        workers: Processes that tokenize, at least 1.
        progress: Called with the bytes of input that have been tokenized since the last call.

    Raises:
        ConfigError: If an input cannot be read or holds no document to train on, or ``workers``
            is below 1.
        ShardError: If a domain's folder exists already, or cannot be written.
    """
    for source in inputs:
        if (output / source.name).exists():
            raise ShardError(
                f"{output / source.name}: expected no domain of this name yet, found one"
            )
    with OrderedPool(workers) as pool:
        return tuple(
            _build_domain(source, tokenizer, output, recipe, pool=pool, progress=progress)
            for source in inputs
        )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Neighbouring documents: what a worker gets."""

    texts: tuple[str, ...]
    input_bytes: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What a worker makes of a chunk: few large arrays, which are quick to send."""

    tokens: TokenArray  # of all documents, each ended by EOD
    lengths: IntArray  # (documents,)
    held_out: NDArray[np.bool_]  # (documents,)
    num_empty: int
    input_bytes: int

    def documents(self) -> list[TokenArray]:
        """Return each document's tokens, as views."""
        ends = np.cumsum(self.lengths)
        return [
            self.tokens[end - length : end] for end, length in zip(ends, self.lengths, strict=True)
        ]


def _build_domain(
    source: DomainInput,
    tokenizer: Tokenizer,
    output: Path,
    recipe: Recipe,
    *,
    pool: OrderedPool,
    progress: Callable[[int], object],
) -> BuiltDomain:
    splits: dict[str, list[TokenArray]] = {"train": [], "valid": []}
    num_empty = 0
    for path, fraction in _fractions(source, recipe):
        chunks = _chunks(iterate_documents(path, text_key=recipe.text_key))
        encode = partial(_encode, tokenizer=tokenizer, valid_fraction=fraction)
        for encoded in pool.map(encode, chunks):
            for document, held_out in zip(encoded.documents(), encoded.held_out, strict=True):
                splits["valid" if held_out else "train"].append(document)
            num_empty += encoded.num_empty
            progress(encoded.input_bytes)
    if not splits["train"]:
        raise ConfigError(
            f"{source.train}: expected at least one document to train on, found "
            f"{len(splits['valid'])} held out for validation and {num_empty} without text"
        )
    shuffled = {
        split: _shuffle(documents, recipe.seed, f"{source.name}/{split}")
        for split, documents in splits.items()
    }
    manifest = create_domain(output / source.name, tokenizer.identity, shuffled)
    return BuiltDomain(manifest, num_empty)


def _fractions(source: DomainInput, recipe: Recipe) -> tuple[tuple[Path, float], ...]:
    """Return each path of an input with the fraction of its documents that goes to validation."""
    if source.valid is None:
        return ((source.train, recipe.valid_fraction),)
    return ((source.train, 0.0), (source.valid, 1.0))


def _chunks(documents: Iterable[Document]) -> Iterator[_Chunk]:
    texts: list[str] = []
    num_characters = input_bytes = 0
    for document in documents:
        texts.append(document.text)
        num_characters += len(document.text) + 1  # empty documents fill a chunk too
        input_bytes += document.input_bytes
        if num_characters >= CHUNK_CHARACTERS:
            yield _Chunk(tuple(texts), input_bytes)
            texts, num_characters, input_bytes = [], 0, 0
    if texts:
        yield _Chunk(tuple(texts), input_bytes)


def _encode(chunk: _Chunk, *, tokenizer: Tokenizer, valid_fraction: float) -> _Encoded:
    texts = [text for text in chunk.texts if text]
    encoded = tokenizer.encode(texts)
    eod = np.array([tokenizer.identity.eod], dtype=best_dtype(tokenizer.identity.vocab_size))
    return _Encoded(
        tokens=np.concatenate([part for ids in encoded for part in (ids, eod)] or [eod[:0]]),
        lengths=np.array([ids.size + 1 for ids in encoded], dtype=np.int64),
        held_out=np.array([_is_held_out(text, valid_fraction) for text in texts], dtype=np.bool_),
        num_empty=len(chunk.texts) - len(texts),
        input_bytes=chunk.input_bytes,
    )


def _is_held_out(text: str, fraction: float) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < fraction * 2.0**64


def _shuffle(documents: Sequence[TokenArray], seed: int, address: str) -> list[TokenArray]:
    """Return the documents in an order that depends on their number, the seed and the address."""
    digest = hashlib.blake2b(address.encode(), digest_size=8).digest()
    order = np.random.default_rng((seed, int.from_bytes(digest))).permutation(len(documents))
    return [documents[index] for index in order.tolist()]
