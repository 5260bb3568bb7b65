"""Documents out of files. Knows formats; neither domains nor tokens."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from megadga.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        text: May be empty.
        input_bytes: How far reading it has moved on in its file, in bytes on the disk.
    """

    text: str
    input_bytes: int


def iterate_documents(path: Path, *, text_key: str = "text") -> Iterator[Document]:
    """Yield the documents of a file, or of all files of a folder, in order.

    - ``.jsonl`` and ``.jsonl.gz``: one JSON object a line; lines of white space are skipped.
    - Any other file is one document, UTF-8.
    - A folder: its files and its folders' files, sorted by path, hidden ones aside, each as above.

    Args:
        path: The file or folder.
        text_key: Where the objects of JSON lines have their text.

    Raises:
        ConfigError: If something cannot be read as what it should be; names file and line.
    """
    for file in _files(path):
        try:
            if file.name.endswith((".jsonl", ".jsonl.gz")):
                yield from _iterate_lines(file, text_key)
            else:
                yield _read_whole(file)
        except OSError as error:
            raise ConfigError(f"{file}: expected a readable file, found {error}") from error


def count_input_bytes(path: Path) -> int:
    """Return how many bytes on the disk ``iterate_documents`` will read.

    Raises:
        ConfigError: If the path does not exist.
    """
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path}: expected a file or folder, found none")
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def _iterate_lines(path: Path, text_key: str) -> Iterator[Document]:
    position = 0
    number = 0
    with path.open("rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        try:
            for number, line in enumerate(stream, start=1):  # bytes: lines end at "\n" alone
                if line.isspace():
                    continue
                text = _parse_line(line, text_key, place=f"{path}:{number}")
                moved, position = raw.tell() - position, raw.tell()
                yield Document(text, moved)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ConfigError(
                f"{path}:{number + 1}: expected whole gzip, found {error}"
            ) from error


def _parse_line(line: bytes, text_key: str, *, place: str) -> str:
    try:
        content: object = json.loads(line.decode())
    except ValueError as error:  # UnicodeDecodeError is one
        raise ConfigError(f"{place}: expected one JSON object, found {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{place}: expected a JSON object, found {type(content).__name__}")
    fields = cast("dict[str, Any]", content)
    text = fields.get(text_key)
    if not isinstance(text, str):
        found = (
            type(text).__name__ if text_key in fields else f"only {', '.join(fields) or 'none'}"
        )
        raise ConfigError(f"{place}: {text_key}: expected a string, found {found}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise ConfigError(f"{place}: {text_key}: expected Unicode text, found {error}") from error
    return text


def _read_whole(path: Path) -> Document:
    content = path.read_bytes()
    try:
        return Document(content.decode(), len(content))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, found {error}") from error
