"""The domains of a checkpoint, in a file that is read without torch: content, order, weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray
from megadga.data.content import DomainContents
from megadga.data.npz import ArraySpec, array_bytes, read_arrays
from megadga.data.order import WindowOrder
from megadga.errors import ResumeError

_FILE = "domains.npz"
_INTEGERS = ("sizes", "numbers", "starts", "first_epochs", "cursors", "tokens")
_SPECS = {
    "names": ArraySpec(("|u1",), 1),
    "rule": ArraySpec(("|u1",), 1),
    "digests": ArraySpec(("<u8",), 1),
    "growths": ArraySpec(("<i8",), 2),
    # reserved, next_number, step, num_updates, num_skipped, revision
    "counts": ArraySpec(("<i8",), 1),
    "weights": ArraySpec(("<f8",), 1),
    "averaged_weights": ArraySpec(("<f8",), 1),
    "basis_weights": ArraySpec(("<f8",), 1),
    "basis_averaged_weights": ArraySpec(("<f8",), 1),
    **dict.fromkeys(_INTEGERS, ArraySpec(("<i8",), 1)),
}


@final
@dataclass(frozen=True, eq=False)
class DomainRecord:
    """The ``K`` domains that a checkpoint was trained on, and how far.

    Attributes:
        contents: Name, tokens and digest of each.
        order: The order of their windows.
        cursors: Windows drawn from each, shape ``(K,)``.
        weights: Instantaneous weights, shape ``(K,)``.
        averaged_weights: What batches are sampled from, shape ``(K,)``.
        rule: Kind of the rule that moves them.
        step: Optimizer steps completed.
        num_updates: Updates that were applied.
        num_skipped: Updates that were left out.
        revision: Number of the last revision that was applied during the run; 0: none.
        basis: Weights of basis distributions and their average, by name in the rule's memory;
            empty without a basis.
    """

    contents: DomainContents
    order: WindowOrder
    cursors: IntArray
    weights: FloatArray
    averaged_weights: FloatArray
    rule: str
    step: int
    num_updates: int
    num_skipped: int
    revision: int
    basis: Mapping[str, FloatArray]


def domains_path(checkpoint: Path) -> Path:
    """Return the path of the file in a checkpoint's folder."""
    return checkpoint / _FILE


def domain_files(record: DomainRecord) -> dict[str, bytes]:
    """Return the file by its name in a checkpoint's folder."""
    order = record.order
    counts = (order.reserved, order.next_number, record.step, record.num_updates)
    none = np.empty(0)
    arrays: dict[str, NDArray[Any]] = {
        "names": np.frombuffer("\n".join(record.contents.names).encode(), dtype=np.uint8),
        "rule": np.frombuffer(record.rule.encode(), dtype=np.uint8),
        "digests": record.contents.digests,
        "growths": order.growths,
        "counts": np.array([*counts, record.num_skipped, record.revision], dtype=np.int64),
        "weights": record.weights,
        "averaged_weights": record.averaged_weights,
        "basis_weights": record.basis.get("basis_weights", none),
        "basis_averaged_weights": record.basis.get("basis_averaged_weights", none),
        "sizes": order.sizes,
        "numbers": order.numbers,
        "starts": order.starts,
        "first_epochs": order.first_epochs,
        "cursors": record.cursors,
        "tokens": record.contents.tokens,
    }
    return {_FILE: array_bytes(arrays)}


def read_domains(checkpoint: Path) -> DomainRecord | None:
    """Read the file of a checkpoint; None: it was written by a version without.

    Raises:
        ResumeError: If it is damaged.
    """
    path = domains_path(checkpoint)
    if not path.exists():
        return None
    arrays = read_arrays(path, _SPECS, error=ResumeError)
    names = tuple(arrays["names"].tobytes().decode().split("\n"))
    per_domain = (*_INTEGERS, "digests", "weights", "averaged_weights")
    if wrong := [key for key in per_domain if arrays[key].shape != (len(names),)]:
        raise ResumeError(
            f"{path}: {wrong[0]}: expected one number for each of {len(names)} domains, "
            f"found shape {arrays[wrong[0]].shape}"
        )
    if arrays["counts"].shape != (6,) or arrays["growths"].shape[1:] != (4,):
        raise ResumeError(f"{path}: expected 6 counts and growths of 4 numbers, found others")
    reserved, next_number, step, updates, skipped, revision = arrays["counts"].tolist()
    order = WindowOrder(
        sizes=arrays["sizes"],
        numbers=arrays["numbers"],
        starts=arrays["starts"],
        first_epochs=arrays["first_epochs"],
        growths=arrays["growths"],
        reserved=reserved,
        next_number=next_number,
    )
    keys = ("basis_weights", "basis_averaged_weights")
    return DomainRecord(
        contents=DomainContents(names, arrays["tokens"], arrays["digests"]),
        order=order,
        cursors=arrays["cursors"],
        weights=arrays["weights"],
        averaged_weights=arrays["averaged_weights"],
        rule=arrays["rule"].tobytes().decode(),
        step=step,
        num_updates=updates,
        num_skipped=skipped,
        revision=revision,
        basis={key: arrays[key] for key in keys if arrays[key].size},
    )
