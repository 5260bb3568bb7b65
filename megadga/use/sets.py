"""Sets that a model is evaluated on, as windows of tokens (without torch).

Windows are those of training: ``S`` inputs and ``S`` targets of a stream of documents, each ended
by EOD. Consecutive windows share one token, the last target of one and the first input of the
next, so that every token is a target once.

- Shards: window ``j`` is tokens ``[jS, jS + S]``; as in training and in its evaluations, up to
  ``S`` tokens at the end are left out, and the first token has no context and is no target.
- Shards of dialogues: each dialogue by itself, and targets are its trained tokens alone.
- Documents: the stream begins with an EOD (or the model's BOS), and the last window is padded:
  every token of the text is a target.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.domain import SequenceSet
from megadga.data.examples import open_chat
from megadga.data.folder import DomainSource, ShardFolder, open_split, read_folder, read_folders
from megadga.data.manifest import manifest_path, read_manifest
from megadga.data.targets import PADDING
from megadga.errors import ConfigError, ShardError
from megadga.prepare.progress import Stages
from megadga.prepare.reading.documents import count_bytes, read_texts
from megadga.prepare.reading.inputs import list_files
from megadga.use.text import ModelTokenizer


@dataclass(frozen=True, eq=False)
class Windows:
    """Some windows of a set.

    Attributes:
        tokens: Ids, ``PADDING`` at the ends of windows, and ids that are no targets as
            ``INPUT_ONLY - id`` (see ``data.targets``), shape ``(b, S + 1)``.
        text_bytes: Bytes, in UTF-8, of documents that were read for them; 0 where tokens have to
            be decoded to know them.
    """

    tokens: IntArray
    text_bytes: int = 0


class EvaluatedSet(Protocol):
    """A set that a model is evaluated on."""

    @property
    def name(self) -> str:
        """Name of the set."""
        ...

    @property
    def split(self) -> str | None:
        """Split of shards; None: documents, which have none."""
        ...

    @property
    def sequence_length(self) -> int:
        """Targets of a window (S), at least 1."""
        ...

    @property
    def knows_bytes(self) -> bool:
        """Whether its windows say what bytes of text they come from."""
        ...

    def windows(self, batch_size: int, stages: Stages) -> Iterator[Windows]:
        """Yield the windows, up to ``batch_size`` at a time."""
        ...


@final
@dataclass(frozen=True, eq=False)
class ShardSet:
    """A split of one domain in shards; an ``EvaluatedSet``.

    Attributes:
        name: Name of the set.
        split: Which split.
        sequences: The windows.
        limit: Maximum number of windows, from the beginning; None: all.
    """

    name: str
    split: str | None
    sequences: SequenceSet
    limit: int | None
    knows_bytes: bool = False

    @property
    def sequence_length(self) -> int:
        """Targets of a window."""
        return self.sequences.sequence_length

    def windows(self, batch_size: int, stages: Stages) -> Iterator[Windows]:
        """Yield the windows, up to ``batch_size`` at a time."""
        count = self.sequences.num_sequences
        count = count if self.limit is None else min(count, self.limit)
        advance = stages(self.name, count, " windows")
        for first in range(0, count, batch_size):
            chosen = np.arange(first, min(first + batch_size, count))
            yield Windows(self.sequences.windows(chosen))
            advance(chosen.size)


@final
@dataclass(frozen=True, eq=False)
class DocumentSet:
    """Files of documents; an ``EvaluatedSet``.

    Attributes:
        name: Name of the set.
        files: The files.
        tokenizer: The model's.
        sequence_length: Targets of a window (S).
        limit: Maximum number of windows, from the beginning; None: all.
        text_key: Key of the text in records.
    """

    name: str
    files: Sequence[Path]
    tokenizer: ModelTokenizer
    sequence_length: int
    limit: int | None
    text_key: str = "text"

    split = None

    @property
    def knows_bytes(self) -> bool:
        """Whether all of the documents are read."""
        return self.limit is None

    def windows(self, batch_size: int, stages: Stages) -> Iterator[Windows]:
        """Yield the windows, up to ``batch_size`` at a time."""
        left = self.limit
        rows: list[IntArray] = []
        text_bytes = 0
        for row, read in self._rows(stages):
            text_bytes += read
            rows.append(row)
            left = None if left is None else left - 1
            if len(rows) == batch_size or left == 0:
                yield Windows(np.stack(rows), text_bytes if self.knows_bytes else 0)
                rows, text_bytes = [], 0
            if left == 0:
                return
        if rows:
            yield Windows(np.stack(rows), text_bytes if self.knows_bytes else 0)

    def _rows(self, stages: Stages) -> Iterator[tuple[IntArray, int]]:
        """Yield windows, each with the bytes of the documents that were read before it."""
        length = self.sequence_length
        stream = np.array([self.tokenizer.context], dtype=np.int64)
        advance = stages(self.name, count_bytes(self.files), "B")
        read, found = 0, False
        for text in read_texts(self.files, text_key=self.text_key, progress=advance):
            found = True
            read += len(text.encode())
            stream = np.append(stream, [*self.tokenizer.encode(text), self.tokenizer.end])
            whole = (stream.size - 1) // length
            for index in range(whole):
                yield stream[index * length : (index + 1) * length + 1], read
                read = 0
            stream = stream[whole * length :]
        if not found:
            raise ConfigError(f"--set {self.name}: expected documents with text, found none")
        if stream.size > 1:
            padded = np.full(length + 1, PADDING, dtype=np.int64)
            padded[: stream.size] = stream
            yield padded, read


@dataclass(frozen=True)
class SetOptions:
    """How sets are opened.

    Attributes:
        sequence_length: Targets of a window (S), at least 1.
        split: Split of shards; None: every split.
        limit: Maximum number of windows of each set; None: all.
        text_key: Key of the text in records.
    """

    sequence_length: int
    split: str | None = None
    limit: int | None = None
    text_key: str = "text"


def parse_sets(named: Sequence[str]) -> dict[str, Path]:
    """Return the paths of sets, by name, of ``NAME=PATH``.

    Raises:
        ConfigError: If one is not of that form, its path does not exist, or a name is used twice.
    """
    sets: dict[str, Path] = {}
    for each in named:
        name, equals, path = each.partition("=")
        if not name or not equals or not path:
            raise ConfigError(f"--set: expected NAME=SHARDS or NAME=DOCUMENTS, found {each!r}")
        if name in sets:
            raise ConfigError(f"--set {name}: expected different names, found it twice")
        if not Path(path).exists():
            raise ConfigError(f"--set {name}: expected shards or documents, found no {path}")
        sets[name] = Path(path)
    return sets


def is_shards(path: Path) -> bool:
    """Return whether a path is a folder of shards, or of folders of them."""
    if not path.is_dir():
        return False
    return any(manifest_path(place).exists() for place in (path, *path.iterdir()))


def open_shard_sets(
    name: str, path: Path, options: SetOptions, *, fingerprints: frozenset[str]
) -> tuple[list[EvaluatedSet], list[str]]:
    """Open the splits of a domain's shards, or of all domains in a folder.

    Args:
        name: Name of the set, and the beginning of that of each of several domains.
        path: The folder.
        options: How it is opened.
        fingerprints: The model's tokenizer: SHA-256 of its files.

    Returns:
        The sets, and a line about each split that is shorter than a window.

    Raises:
        ShardError: If there are none, or they are damaged, too short, or of another tokenizer.
    """
    folders = _read_folders(name, path)
    for folder in folders:
        check_fingerprint(folder.source.path, folder.manifest.tokenizer.fingerprint, fingerprints)
    single = len(folders) == 1 and folders[0].manifest.grouping is None
    splits = dict.fromkeys(split for folder in folders for split in folder.manifest.splits)
    wanted = [split for split in splits if options.split in (None, split)]
    if not wanted:
        only = ", ".join(splits) or "none"
        raise ShardError(f"{path}: splits: expected {options.split}, found only {only}")
    length, sets, notes = options.sequence_length, list[EvaluatedSet](), list[str]()
    for split in wanted:
        having = [folder for folder in folders if split in folder.manifest.splits]
        for folder in having:
            if folder.manifest.num_trained(split) is not None:
                chat = open_chat(folder.source, split=split, sequence_length=length)
                found: Sequence[SequenceSet] = (chat,)
            else:
                opened = open_split([folder], split=split, sequence_length=length)
                found = opened.domains
                notes += _describe_short(opened.too_short, split, length)
            for each in found:
                own = name if single else f"{name}/{each.name}"
                sets.append(ShardSet(own, split, each, options.limit))
    if not sets:
        raise ShardError(f"{path}: {notes[0]}")
    return sets, [f"--set {name}: left out: {note}" for note in notes]


def check_fingerprint(folder: Path, found: str, expected: frozenset[str]) -> None:
    """Check that shards were written with the model's tokenizer.

    Args:
        folder: The shards.
        found: SHA-256 of the file that they were written with.
        expected: SHA-256 of the files of the model's tokenizer.

    Raises:
        ShardError: If not.
    """
    if found not in expected:
        own = " or ".join(f"{each[:16]}..." for each in sorted(expected)) or "none"
        raise ShardError(
            f"{manifest_path(folder)}: tokenizer: expected that of the model (SHA-256 {own}), "
            f"found {found[:16]}...: name documents instead of shards, or of a model of Hugging "
            "Face with equal tokens the file that the shards were written with (--tokenizer)"
        )


def open_document_set(
    name: str, path: Path, options: SetOptions, *, tokenizer: ModelTokenizer
) -> DocumentSet:
    """Open a file, or all files in a folder, of documents; none is read yet.

    Raises:
        ConfigError: If a file cannot be read.
    """
    files = list_files(path)
    if not files:
        raise ConfigError(f"--set {name}: expected shards or documents, found none in {path}")
    length, limit = options.sequence_length, options.limit
    return DocumentSet(name, files, tokenizer, length, limit, options.text_key)


def _read_folders(name: str, path: Path) -> tuple[ShardFolder, ...]:
    if manifest_path(path).exists() and read_manifest(path).grouping is None:
        return (read_folder(DomainSource(name, path)),)
    return read_folders(path)


def _describe_short(too_short: Mapping[str, int], split: str, length: int) -> Iterator[str]:
    if too_short:
        name, tokens = next(iter(too_short.items()))
        more = f" and too few in {len(too_short) - 1:,} more" if len(too_short) > 1 else ""
        yield (
            f"split {split}: expected at least {length + 1:,} tokens (a window of "
            f"--sequence-length and one), found {tokens:,} in {name}{more}"
        )
