"""Turns addresses such as (seed, stream, domain, epoch) into random 64-bit keys.

Randomness is looked up, never advanced: what was drawn before leaves no trace in a key. Knows
nothing of what a key is used for.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

KeyArray = NDArray[np.uint64]

#: 2^64 over the golden ratio, rounded to odd: its multiples spread evenly modulo 2^64.
GOLDEN = 0x9E3779B97F4A7C15


class Stream(IntEnum):
    """What randomness is for; streams of one seed are independent of each other."""

    TRAINING_ORDER = 1
    PROBE_ORDER = 2
    OFFSETS = 3
    ROWS = 4
    DOCUMENT_ORDER = 5
    PROBE_OFFSETS = 6


def check_seed(seed: int) -> int:
    """Return ``seed`` after checking that it is in ``[0, 2**64)``.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, found {seed}")
    return seed


def mix(values: NDArray[np.unsignedinteger[Any]]) -> KeyArray:
    """Scramble 64-bit integers one to one, so that every output bit depends on every input bit.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014, with Stafford's constants): shifts bring
    high bits down, odd multiplications modulo 2^64 carry low bits up.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def address_keys(seed: int, stream: Stream, *indices: ArrayLike) -> KeyArray:
    """Return one key for each address ``(seed, stream, *indices)``.

    Addresses that differ in one component only never share a key.

    Args:
        seed: In ``[0, 2**64)``.
        stream: What the keys are for.
        indices: Non-negative integers that broadcast against each other.

    Returns:
        The keys, of the shape that ``indices`` broadcast to, at least one-dimensional.
    """
    keys = np.array([seed], dtype=np.uint64)
    for component in (int(stream), *indices):
        # The constant keeps the all-zero address away from zero, which mix() leaves in place.
        keys = mix((keys ^ np.asarray(component, dtype=np.uint64)) + np.uint64(GOLDEN))
    return keys
