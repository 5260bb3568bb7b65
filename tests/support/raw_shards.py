"""Shards as other programs and accidents leave them, and what verifying finds wrong with them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megadga.data.indexed import DTYPE_CODES, HEADER, MAGIC, VERSION, index_path, tokens_path
from megadga.data.verify import plan_checks, verify_shard


def problems_of(folder: Path) -> list[str]:
    """Return everything that verifying a domain's folder finds wrong."""
    plan = plan_checks(folder)
    return [*plan.problems, *(line for one in plan.shards for line in verify_shard(one).problems)]


def write_raw_shard(
    prefix: Path, sentences: Sequence[Sequence[int]], bounds: Sequence[int], *, code: int = 8
) -> Path:
    """Write a shard of any sentences and document bounds, as another program may have."""
    dtype = DTYPE_CODES[code]
    lengths = np.array([len(sentence) for sentence in sentences], dtype="<i4")
    offsets = (np.cumsum(lengths, dtype="<i8") - lengths) * dtype.itemsize
    header = HEADER.pack(MAGIC, VERSION, code, lengths.size, len(bounds))
    index_path(prefix).write_bytes(
        header + lengths.tobytes() + offsets.tobytes() + np.array(bounds, dtype="<i8").tobytes()
    )
    stream = np.array([token for sentence in sentences for token in sentence], dtype=dtype)
    tokens_path(prefix).write_bytes(stream.tobytes())
    return prefix


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Change some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
