"""Turns flat files of token ids (OLMo, dolma, nanoGPT) into shards with documents."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.create import SHARD_TOKENS, AdoptionResult, atomic_folder, write_shards
from megadga.data.documents import DocumentBatch
from megadga.data.indexed import TokenType, best_dtype
from megadga.data.manifest import Manifest, ShardEntry, TokenizerIdentity, write_manifest
from megadga.errors import ShardError

FLAT_TYPES: Mapping[str, TokenType] = {
    name: np.dtype(code) for name, code in (("uint16", "<u2"), ("uint32", "<u4"), ("int32", "<i4"))
}
"""Types of ids in flat files, by name."""


CHUNK_TOKENS = 1 << 22


MAX_DOCUMENT_TOKENS = 1 << 26
"""Tokens after which EOD is no longer waited for."""


_NUMPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True, slots=True)
class FlatFile:
    """A file of token ids, one after the other.

    Attributes:
        path: The file.
        dtype: Type of its ids.
        offset: Bytes before the first.
        num_tokens: Number of ids, at least 1.
    """

    path: Path
    dtype: TokenType
    offset: int
    num_tokens: int


def open_flat(path: Path, dtype: TokenType | None) -> FlatFile:
    """Check the size of a flat file, and its header if it has one, as numpy writes it.

    Args:
        path: The file.
        dtype: Type of its ids; None: what its header says.

    Raises:
        ShardError: If it cannot be read, is empty, has no header and no type is given, a header
            says something else, or its size is no multiple of that of an id.
    """
    try:
        with path.open("rb") as file:
            found, offset = _read_header(file) if _has_header(file) else (None, 0)
        size = path.stat().st_size - offset
    except OSError as error:
        raise ShardError(f"{path}: expected token ids, found {error.strerror}") from error
    except ValueError as error:
        raise ShardError(f"{path}: expected a one-dimensional array of ids, {error}") from error
    names = " or ".join(FLAT_TYPES)
    if found is None and dtype is None:
        raise ShardError(f"{path}: expected a header of numpy, found none: name the type, {names}")
    if found is not None and dtype not in (None, found):
        raise ShardError(f"{path}: expected {dtype} ids, found {found} by its header")
    known = found or dtype
    if known not in FLAT_TYPES.values():
        raise ShardError(f"{path}: expected {names} ids, found {known}")
    assert known is not None
    if size % known.itemsize or not size:
        raise ShardError(
            f"{path}: expected ids of {known.itemsize} bytes, at least one, found {size:,} bytes"
        )
    return FlatFile(path, known, offset, size // known.itemsize)


def _has_header(file: BinaryIO) -> bool:
    begins = file.read(len(_NUMPY_MAGIC)) == _NUMPY_MAGIC
    file.seek(0)
    return begins


def _read_header(file: BinaryIO) -> tuple[TokenType, int]:
    """Return the type in a header of numpy and its length; raise ``ValueError`` if unusable."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"found version {version}")
    shape, _, dtype = read(file)
    if len(shape) != 1:
        raise ValueError(f"found shape {shape}")
    return dtype, file.tell()


def convert_flat(
    splits: Mapping[str, Sequence[FlatFile]],
    output: Path,
    tokenizer: TokenizerIdentity,
    *,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[int], object] = lambda _: None,
) -> AdoptionResult:
    """Write a domain of flat files, with a document up to every EOD; atomic.

    The ids are those of the files, in their order, none added or left out. A document ends with
    its file, too. Memory: two chunks of 4 million ids, and a document.

    Args:
        splits: Files of each split, in order, at least one.
        output: The new domain's folder, which must not exist; parent folders are created.
        tokenizer: Tokenizer that produced the ids.
        shard_tokens: A shard is closed once it holds this many tokens, at least 1.
        progress: Called with the bytes read since the last call.

    Raises:
        ShardError: If the output exists, writing fails, a file cannot be read or was truncated,
            holds an id outside the vocabulary, no EOD, or too few.
        ValueError: If ``shard_tokens`` is below 1.
    """
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens: expected at least 1, found {shard_tokens}")
    reader = _FlatReader(tokenizer, progress)
    with atomic_folder(output) as partial:
        entries: dict[str, tuple[ShardEntry, ...]] = {
            split: tuple(
                write_shards(
                    partial / split,
                    (batch for file in files for batch in reader.read(file)),
                    dtype=best_dtype(tokenizer.vocab_size),
                    shard_tokens=shard_tokens,
                )
            )
            for split, files in splits.items()
        }
        manifest = Manifest(output.name, tokenizer, entries)
        write_manifest(partial, manifest)
    return AdoptionResult(manifest, reader.without_eod)


class _FlatReader:
    """Reads flat files in batches of whole documents, and counts those without EOD."""

    def __init__(self, tokenizer: TokenizerIdentity, progress: Callable[[int], object]) -> None:
        self.without_eod = 0
        self._tokenizer = tokenizer
        self._progress = progress

    def read(self, file: FlatFile) -> Iterator[DocumentBatch]:
        eod = self._tokenizer.eod
        begun: list[TokenArray] = []  # of the document that goes on in the next chunk
        num_begun = num_documents = 0
        for position, tokens in self._chunks(file):
            ends: IntArray = np.flatnonzero(tokens == eod) + 1
            num_documents += ends.size
            if not ends.size:
                begun.append(tokens)
                num_begun += tokens.size
                if num_begun > MAX_DOCUMENT_TOKENS:
                    raise ShardError(
                        f"{file.path}: token {position}: expected EOD ({eod}) within "
                        f"{MAX_DOCUMENT_TOKENS:,} tokens, found none: is it the right token?"
                    )
                continue
            whole = np.concatenate([*begun, tokens[: ends[-1]]])
            yield DocumentBatch(whole, np.diff(ends + num_begun, prepend=0))
            rest = tokens[ends[-1] :]
            begun, num_begun = [rest], rest.size
        if not num_documents:
            raise ShardError(
                f"{file.path}: expected EOD ({eod}) after each document, found none in "
                f"{file.num_tokens:,} tokens: is it the right token, and {file.dtype} the type?"
            )
        if num_begun:
            self.without_eod += 1
            yield DocumentBatch(np.concatenate(begun), np.array([num_begun]))

    def _chunks(self, file: FlatFile) -> Iterator[tuple[int, TokenArray]]:
        """Yield the position and the ids of each chunk, all of them in the vocabulary."""
        size = self._tokenizer.vocab_size
        for start in range(0, file.num_tokens, CHUNK_TOKENS):
            count = min(CHUNK_TOKENS, file.num_tokens - start)
            offset = file.offset + start * file.dtype.itemsize
            try:
                tokens = np.fromfile(file.path, file.dtype, count, offset=offset)
            except OSError as error:
                raise ShardError(
                    f"{file.path}: expected token ids, found {error.strerror}"
                ) from error
            if tokens.size != count:
                raise ShardError(
                    f"{file.path}: expected {count} ids from {start} on, found {tokens.size}"
                )
            wrong = np.flatnonzero((tokens < 0) | (tokens >= size))
            if wrong.size:
                raise ShardError(
                    f"{file.path}: token {start + int(wrong[0])}: expected an id in [0, {size}), "
                    f"found {tokens[wrong[0]]}: is it the right tokenizer, and {file.dtype} the "
                    "type?"
                )
            yield start, tokens
            self._progress(tokens.nbytes)
