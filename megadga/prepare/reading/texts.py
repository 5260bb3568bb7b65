"""The texts of many documents as one stream, and in chunks. Knows no tokens and no domains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from megadga.prepare.reading.bad import BadRecords
from megadga.prepare.reading.documents import count_input_bytes, iterate_documents

CHUNK_CHARACTERS = 1 << 20


def read_texts(
    paths: Sequence[Path],
    *,
    text_key: str = "text",
    bad: BadRecords | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Iterator[str]:
    """Yield the text of every document that has some, file after file.

    Args:
        paths: Files and folders of documents.
        text_key: Where the objects of JSON lines have their text.
        bad: Counts the bad records, and is to be asked at the end whether they are too many; None:
            the first is.
        progress: Called with the bytes of input read since the last call, ``count_bytes``
            in all.

    Raises:
        ConfigError: If an input cannot be read, or too many records are bad.
    """
    bad = bad or BadRecords()
    for path in paths:
        for document in iterate_documents(path, text_key=text_key, bad=bad):
            progress(document.input_bytes)
            if document.text:
                yield document.text


def count_bytes(paths: Iterable[Path]) -> int:
    """Return how many bytes on the disk ``read_texts`` will read.

    Raises:
        ConfigError: If a path does not exist.
    """
    return sum(map(count_input_bytes, paths))


def chunk_texts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield neighbouring texts together, a chunk closed once it has ``CHUNK_CHARACTERS``."""
    chunk: list[str] = []
    num_characters = 0
    for text in texts:
        chunk.append(text)
        num_characters += len(text)
        if num_characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk
