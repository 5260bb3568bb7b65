"""The input of a build, its recipe, and the division into tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.data.create import MAX_SHARD_TOKENS, SHARD_TOKENS
from megadga.errors import ConfigError
from megadga.prepare.reading.documents import split_file
from megadga.prepare.reading.inputs import DomainInput, divide_input, list_files, pair_files
from megadga.prepare.reading.lines import Span
from megadga.prepare.reading.records import Keys

SPLITS = ("train", "valid")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How documents become splits of domains.

    Attributes:
        keys: Keys of the text, and of the id and domain if needed, in records.
        valid_fraction: Expected fraction of documents held out for validation, in [0, 1). The
            selection depends only on the text: copies belong to the same split, and a document's
            split does not change with the seed or with additional input.
        seed: Seed of the shuffle, in [0, 2^64).
        piece_tokens: Longer documents are split into pieces of this many tokens, which are treated
            as documents from then on, in [1, 2^62]; None: documents are not split.
        shard_tokens: Approximate tokens per shard, in [1, 2^62].

    Raises:
        ConfigError: If a value is out of range.
    """

    keys: Keys = Keys()
    valid_fraction: float = 0.05
    seed: int = 0
    piece_tokens: int | None = None
    shard_tokens: int = SHARD_TOKENS

    def __post_init__(self) -> None:
        if not 0.0 <= self.valid_fraction < 1.0:
            raise ConfigError(f"valid_fraction: expected 0 <= F < 1, found {self.valid_fraction}")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"seed: expected 0 <= N < 2^64, found {self.seed}")
        for name, value in (
            ("piece_tokens", self.piece_tokens),
            ("shard_tokens", self.shard_tokens),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, found {value}")
            if value is not None and value > MAX_SHARD_TOKENS:
                raise ConfigError(f"{name}: expected at most 2^62, found {value}")


MIN_TASK_BYTES = 1 << 18


MAX_TASK_BYTES = 1 << 26


TASKS_WANTED = 64
"""Approximate number of tasks per corpus; more if they would be too large."""


CHECKED_BYTES = 1 << 26
"""Documents whose round trip through the tokenizer is checked: about this many bytes, distributed
evenly over the corpus, and as many again with an equal share of each file."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus.

    Attributes:
        path: The file.
        ordinal: Its index among the files of its input, from 0; part of the documents' sort key.
        domain: The domain of all its documents; None: assigned per document.
        valid_fraction: Expected fraction of documents held out for validation, in [0, 1].
    """

    path: Path
    ordinal: int
    domain: int | None
    valid_fraction: float


@dataclass(frozen=True, slots=True)
class Corpus:
    """The input of a build.

    Attributes:
        sources: All files, in order.
        names: The domains' names; None if records or a classifier determine them.
    """

    sources: tuple[SourceFile, ...]
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class FilePart:
    """Consecutive records of one file.

    Attributes:
        source: The file.
        span: Their span in the file.
        checked: Fraction of its documents, in (0, 1], whose round trip is checked.
    """

    source: SourceFile
    span: Span
    checked: float = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """A unit of work for tokenizing.

    Attributes:
        number: Its index, from 0.
        parts: In the order of the corpus, at least one.
    """

    number: int
    parts: tuple[FilePart, ...]

    @property
    def input_bytes(self) -> int:
        """Bytes of input on disk."""
        return sum(part.span.input_bytes for part in self.parts)


def corpus_by_input(inputs: Sequence[DomainInput], *, valid_fraction: float) -> Corpus:
    """Return a corpus in which every input is a domain.

    Args:
        inputs: The input of each domain.
        valid_fraction: Fraction held out of inputs without their own validation files.

    Raises:
        ConfigError: If an input does not exist.
    """
    return Corpus(
        tuple(
            source
            for domain, one in enumerate(inputs)
            for source in _input_sources(one, domain, valid_fraction)
        ),
        tuple(one.name for one in inputs),
    )


def corpus_of_files(files: Sequence[Path], *, valid_fraction: float) -> Corpus:
    """Return a corpus whose documents are assigned to domains individually.

    Args:
        files: Every file, in order.
        valid_fraction: Documents held out for validation, in [0, 1), on average.
    """
    return Corpus(
        tuple(SourceFile(path, number, None, valid_fraction) for number, path in enumerate(files)),
        None,
    )


def plan_tasks(corpus: Corpus) -> tuple[Task, ...]:
    """Divide a corpus into tasks of similar size, splitting large files and grouping small ones.

    The division depends only on the files, not on the workers.

    Raises:
        ConfigError: If a file cannot be read.
    """
    sizes = [source.path.stat().st_size for source in corpus.sources]
    task_bytes = min(max(sum(sizes) // TASKS_WANTED, MIN_TASK_BYTES), MAX_TASK_BYTES)
    return tuple(
        Task(number, parts)
        for number, parts in enumerate(_packed(corpus.sources, _checked_shares(sizes), task_bytes))
    )


def _input_sources(one: DomainInput, domain: int, valid_fraction: float) -> Iterator[SourceFile]:
    if one.valid is not None:
        train, valid = pair_files(one.train, "train"), pair_files(one.valid, "valid")
    else:
        divided = divide_input(one.train, list_files(one.train))
        train, valid = divided.train, divided.valid
    fraction = 0.0 if valid or one.valid is not None else valid_fraction
    files = [*((file, fraction) for file in train), *((file, 1.0) for file in valid)]
    for ordinal, (file, share) in enumerate(files):
        yield SourceFile(file, ordinal, domain, share)


def _checked_shares(sizes: Sequence[int]) -> list[float]:
    """Return the fraction of each file's documents to check, from the sizes of all files."""
    evenly = CHECKED_BYTES / max(sum(sizes), 1)
    return [min(max(evenly, CHECKED_BYTES / max(size * len(sizes), 1)), 1.0) for size in sizes]


def _packed(
    sources: Sequence[SourceFile], shares: Sequence[float], task_bytes: int
) -> Iterator[tuple[FilePart, ...]]:
    parts: list[FilePart] = []
    held = 0
    for source, share in zip(sources, shares, strict=True):
        for span in split_file(source.path, span_bytes=task_bytes):
            if parts and held + span.input_bytes > task_bytes:
                yield tuple(parts)
                parts, held = [], 0
            parts.append(FilePart(source, span, share))
            held += span.input_bytes
    if parts:
        yield tuple(parts)
