"""Small texts that are the same on every machine, and files of them."""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path


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
    """Write JSON lines, compressed if the name ends in ``.gz``."""
    content = "".join(json.dumps({key: text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path
