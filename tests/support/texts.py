"""Small texts that are the same on every machine, and files of them."""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import zstandard


def made_up_texts(count: int, *, seed: int = 0) -> list[str]:
    """Texts of a few lines each over an invented vocabulary of 300 words."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(300)]
    return [
        "\n".join(" ".join(rng.choices(words, k=12)) + "." for _ in range(rng.randint(1, 6)))
        for _ in range(count)
    ]


def write_lines(path: Path, texts: Sequence[str], *, key: str = "text") -> Path:
    """Write JSON lines, compressed if the name ends in ``.gz`` or ``.zst``."""
    return write_packed(path, "".join(json.dumps({key: text}) + "\n" for text in texts).encode())


def write_packed(path: Path, content: bytes) -> Path:
    """Write bytes, compressed if the name ends in ``.gz`` or ``.zst``."""
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    if path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return path
