"""Collects documents for the demo from text that every Python installation has."""

import hashlib
import inspect
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from megadga.errors import ConfigError

OVERLAP_WORDS = 13
"""Length of word n-grams for detecting overlap, as in GPT-3's decontamination."""


_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class SizeLimits:
    """Size limits of one domain.

    Attributes:
        domain: Maximum characters of the domain.
        file: Maximum characters of one file, so that no file dominates a domain.
        document: Maximum characters of one document; longer files become several documents.
    """

    domain: int = 1_500_000
    file: int = 60_000
    document: int = 8_000


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def word_ngrams(text: str) -> Iterator[tuple[str, ...]]:
    """Yield every ``OVERLAP_WORDS`` consecutive words of a text, in lower case."""
    of_text = words(text)
    return zip(*(of_text[start:] for start in range(OVERLAP_WORDS)), strict=False)


def split_documents(text: str, size: int) -> Iterator[str]:
    """Yield consecutive parts of a text, cut at line ends where possible.

    Args:
        text: The text; blank parts are skipped.
        size: Maximum characters per part.
    """
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.rfind("\n", start + size // 2, end) + 1 or end
        if not text[start:end].isspace():
            yield text[start:end]
        start = end


def select_documents(
    files: Iterable[str], *, sizes: SizeLimits, excluded_ngrams: frozenset[tuple[str, ...]]
) -> list[str]:
    """Return a domain's documents: parts of its files, in order, up to the size limit.

    Args:
        files: Whole texts; read lazily.
        sizes: Size limits.
        excluded_ngrams: Word n-grams that no document may contain (``word_ngrams``).
    """
    documents: list[str] = []
    left = sizes.domain
    for text in files:
        for document in split_documents(text[: sizes.file], sizes.document):
            if len(document) > left:
                return documents
            if excluded_ngrams.isdisjoint(word_ngrams(document)):
                documents.append(document)
                left -= len(document)
    return documents


def deduplicate_paragraphs(texts: Iterable[str]) -> list[str]:
    """Remove paragraphs that share a word n-gram with earlier text.

    A paragraph (text between blank lines) is removed if it would introduce an n-gram that was
    kept before, in this text or an earlier one.

    Args:
        texts: Texts; shared paragraphs are kept in the first one.

    Returns:
        One text per input, possibly empty; no two share a word n-gram.
    """
    seen: set[tuple[str, ...]] = set()
    distinct: list[str] = []
    for text in texts:
        kept: list[str] = []
        last_words: list[str] = []
        for paragraph in text.split("\n\n"):
            runs = set(word_ngrams(" ".join((*last_words, paragraph))))
            if seen.isdisjoint(runs):
                seen |= runs
                kept.append(paragraph)
                last_words = words(" ".join((*last_words, paragraph)))[1 - OVERLAP_WORDS :]
        distinct.append("\n\n".join(kept).strip())
    return distinct


def hash_ordered(names: Iterable[str]) -> Sequence[str]:
    """Return names in a reproducible pseudo-random order, sorted by SHA-256."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


VALID_CHARACTERS = 80_000
"""Characters of the specific set, at least, that are held out of it."""


MIN_DOMAINS = 6


MIN_CHARACTERS = 200_000
"""Minimum size of a domain; smaller ones would be repeated many times."""


_NOT_CODE = frozenset({"site-packages", "dist-packages", "ensurepip", "lib2to3", "encodings"})


_TESTS = frozenset({"test", "tests", "idle_test"})


# The language reference, which is the specific set, is stored as a module of the library.
_REFERENCE = frozenset({"pydoc_data"})


# Thousands of generated files that differ in one name, and another project's copy.
_GENERATED = frozenset({"ops", "pybind11"})


# A string in triple double quotes that opens a file or follows the colon of a def or class.
_DOCSTRING = re.compile(
    r'(?:\A(?:[ \t]*#[^\n]*\n|\s*\n)*|:[ \t]*(?:#[^\n]*)?\n\s*)[rRuU]?"""(.*?)"""', re.DOTALL
)


_MIN_DOCSTRING = 120  # one-line summaries say little


_LICENCE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)


_TEXT_SUFFIXES = frozenset({"", ".txt", ".md", ".rst"})


@dataclass(frozen=True)
class Corpus:
    """Documents by domain, and the specific set.

    Attributes:
        domains: Documents of each training domain by name.
        specific_train: Documents that gradients are aligned to.
        specific_valid: Documents that nothing is trained on or aligned to.
    """

    domains: dict[str, list[str]]
    specific_train: list[str]
    specific_valid: list[str]


@dataclass(frozen=True)
class TextSource:
    """One kind of text.

    Attributes:
        name: Of the domain.
        files: Yields whole texts, always the same in the same order.
        sizes: How much of it is taken.
    """

    name: str
    files: Callable[[], Iterator[str]]
    sizes: SizeLimits


def python_code() -> Iterator[str]:
    """Yield modules of the standard library with their docstrings emptied."""
    for text in _files(_stdlib(), "*.py", skip=_NOT_CODE | _TESTS | _REFERENCE):
        yield _DOCSTRING.sub(lambda found: found[0].replace(found[1], ""), text)


def python_tests() -> Iterator[str]:
    """Yield the test modules of the standard library."""
    yield from _files(_stdlib() / "test", "*.py")


def python_docstrings() -> Iterator[str]:
    """Yield the docstrings of the standard library, those of a module together."""
    yield from _docstrings(_stdlib())


def array_docstrings() -> Iterator[str]:
    """Yield the docstrings of numpy and of parts of torch, those of a module together."""
    torch = _package("torch")
    for folder in (_package("numpy"), torch / "nn", torch / "distributed", torch / "optim"):
        yield from _docstrings(folder)


def cpp_headers() -> Iterator[str]:
    """Yield the C++ headers that ship with torch, the generated ones aside."""
    yield from _files(_package("torch") / "include", "*.h", skip=_GENERATED)


def type_stubs() -> Iterator[str]:
    """Yield the type stubs of torch and numpy."""
    yield from chain(_files(_package("torch"), "*.pyi"), _files(_package("numpy"), "*.pyi"))


def operator_tables() -> Iterator[str]:
    """Yield the YAML and JSON that torch keeps about its operators."""
    torch = _package("torch")
    yield from chain(
        _files(_package("torchgen"), "*.yaml"), _files(torch, "*.yaml"), _files(torch, "*.json")
    )


def descriptions() -> Iterator[str]:
    """Yield what the installed distributions say about themselves (the body of METADATA)."""
    for distribution in _distributions():
        _, _, body = (distribution.read_text("METADATA") or "").partition("\n\n")
        yield body


def licences() -> Iterator[str]:
    """Yield the licence texts of the installed distributions, equal ones once."""
    seen: set[tuple[str, ...]] = set()
    for distribution in _distributions():
        for file in sorted(distribution.files or [], key=str):
            if _LICENCE.search(file.name) and file.suffix.lower() in _TEXT_SUFFIXES:
                text = _read(Path(str(file.locate())))
                content = tuple(text.split())
                if content not in seen:
                    seen.add(content)
                    yield text


_USUAL = SizeLimits()


SOURCES = (
    TextSource("array_docstrings", array_docstrings, _USUAL),
    TextSource("cpp_headers", cpp_headers, _USUAL),
    TextSource("descriptions", descriptions, _USUAL),
    TextSource("licences", licences, _USUAL),
    TextSource(
        "operator_tables", operator_tables, SizeLimits(file=SizeLimits.domain)
    ),  # few, large files
    TextSource("python_code", python_code, _USUAL),
    TextSource("python_docstrings", python_docstrings, _USUAL),
    TextSource("python_tests", python_tests, _USUAL),
    TextSource("type_stubs", type_stubs, _USUAL),
)


def harvest(report: Callable[[str], None]) -> Corpus:
    """Collect the documents of every domain and of the specific set, the language reference.

    Documents of domains share no word n-gram with the language reference, and neither do the
    held-out documents of the specific set with its training documents.

    Args:
        report: Called with one line per domain.

    Raises:
        ConfigError: If this machine has enough text for fewer than ``MIN_DOMAINS`` domains.
    """
    specific_train, specific_valid = language_reference()
    excluded_ngrams = frozenset(
        chain.from_iterable(map(word_ngrams, (*specific_train, *specific_valid)))
    )
    domains: dict[str, list[str]] = {}
    for source in SOURCES:
        documents = select_documents(
            source.files(), sizes=source.sizes, excluded_ngrams=excluded_ngrams
        )
        characters = sum(map(len, documents))
        summary = f"{source.name}: {len(documents):,} documents, {characters / 1e6:.2f} MB"
        if characters < MIN_CHARACTERS:
            report(f"{summary}; skipped, at least {MIN_CHARACTERS / 1e6:.2f} MB are needed")
        else:
            report(summary)
            domains[source.name] = documents
    if len(domains) < MIN_DOMAINS:
        raise ConfigError(
            f"{_stdlib()} and the installed packages: expected text for at least {MIN_DOMAINS} "
            f"domains, found {len(domains)}: {', '.join(domains)}"
        )
    return Corpus(domains, specific_train, specific_valid)


def language_reference() -> tuple[list[str], list[str]]:
    """Return training and held-out documents of the Python language reference, split by topic.

    Topics include each other; shared paragraphs are kept in the shortest topic.

    Raises:
        ConfigError: If this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415 (some distributions leave it out)
    except ImportError:
        raise ConfigError(
            f"{_stdlib()}: expected pydoc_data/topics.py, the text of help('topics'), found none"
        ) from None
    names = sorted(topics, key=lambda name: (len(topics[name]), name))
    distinct = dict(
        zip(names, deduplicate_paragraphs(topics[name] for name in names), strict=True)
    )
    train: list[str] = []
    valid: list[str] = []
    for name in hash_ordered(names):
        held_out = sum(map(len, valid)) < VALID_CHARACTERS
        part = valid if held_out else train
        part.extend(split_documents(distinct[name], SizeLimits.document))
    return train, valid


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"package {name}: expected it to be installed, found none")
    return Path(spec.submodule_search_locations[0])


def _distributions() -> Iterator[Distribution]:
    """Yield the installed distributions other than this one."""
    whole = (found for found in distributions() if "Name" in found.metadata)  # half-removed ones
    by_name = {found.metadata["Name"].lower(): found for found in whole}
    by_name.pop("megadga", None)
    yield from (by_name[name] for name in hash_ordered(by_name))


def _files(folder: Path, pattern: str, *, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the texts of the files below a folder, none in a folder whose name is in ``skip``."""
    found = (path.relative_to(folder) for path in folder.rglob(pattern))
    for name in hash_ordered(path.as_posix() for path in found if skip.isdisjoint(path.parts)):
        yield _read(folder / name)


def _docstrings(folder: Path) -> Iterator[str]:
    for text in _files(folder, "*.py", skip=_NOT_CODE | _TESTS | _REFERENCE):
        cleaned = map(inspect.cleandoc, _DOCSTRING.findall(text))
        yield "\n\n".join(docstring for docstring in cleaned if len(docstring) >= _MIN_DOCSTRING)


def _read(path: Path) -> str:
    """Return a text file's content, or ``""`` if it is no UTF-8 or is not there any more."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):
        return ""
