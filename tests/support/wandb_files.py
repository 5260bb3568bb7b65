"""Reads the files that Weights & Biases writes offline: LevelDB's log format, records in protobuf.

The package has no reader any more that Python could call; this one follows the format.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _records(content: bytes) -> Iterator[bytes]:
    """Yield whole records; those that cross blocks are in parts."""
    position, parts = 7, b""  # after the file's header
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:  # a header does not fit: padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if kind == 0:
            return
        parts += content[position + 7 :][:length]
        position += 7 + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def _records_in(folder: Path) -> Iterator[Any]:
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for content in _records(path.read_bytes()):
            record = Record()
            record.ParseFromString(content)
            yield record


def offline_history(folder: Path) -> list[dict[str, Any]]:
    """Return what was logged by each offline process of a run, with ``_step``."""
    history: list[dict[str, Any]] = []
    for record in _records_in(folder):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in items
            }
            history.append(found)
    return history


def offline_runs(folder: Path) -> list[Any]:
    """Return the description of the run by each offline process."""
    return [
        record.run
        for record in _records_in(folder)
        if record.WhichOneof("record_type") == "run" and record.run.run_id
    ]
