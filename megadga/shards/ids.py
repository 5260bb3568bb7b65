"""The ids of a shard's documents: where each came from. Knows neither tokens nor manifests.

``PREFIX.ids`` has a JSON string a line, in the order of the documents.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megadga.errors import ShardError
from megadga.shards.problems import Problems


def iterate_ids(path: Path) -> Iterator[str]:
    """Yield the ids of a shard's documents, in order.

    Raises:
        ShardError: If the file cannot be read, or a line is no id; names file and line.
    """
    for number, line in _lines(path):
        try:
            yield _parse(line)
        except ValueError as error:
            raise ShardError(f"{path}: line {number}: {error}") from error


def check_ids(path: Path, num_documents: int, problems: Problems) -> None:
    """Check that a file has one id for each document of its shard.

    Args:
        path: The ``.ids``.
        num_documents: Documents of the shard.
        problems: Gets what is wrong.

    Raises:
        ShardError: If the file cannot be read.
    """
    number = 0
    for number, line in _lines(path):
        try:
            _parse(line)
        except ValueError as error:
            message = str(error)
            problems.add_all(
                path, "bad lines", np.array([number]), lambda at, why=message: f"line {at}: {why}"
            )
    if number != num_documents:
        problems.add(f"{path}: expected {num_documents} ids, one a document, found {number}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)  # bytes: lines end at "\n" alone
    except OSError as error:
        raise ShardError(f"{path}: expected documents' ids, found {error.strerror}") from error


def _parse(line: bytes) -> str:
    """Return the id of a line; a ``ValueError`` says what is wrong with it."""
    try:
        content: object = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON string, found {error}") from error
    if not isinstance(content, str):
        raise ValueError(f"expected a JSON string, found {type(content).__name__}")  # noqa: TRY004
    if not line.endswith(b"\n"):
        raise ValueError("expected a whole line, found no end of it")
    return content
