"""Counter-based randomness: keys from (seed, stream, domain, epoch), Feistel permutations."""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megadga.arrays import IntArray

KeyArray = NDArray[np.uint64]


#: 2^64 over the golden ratio, rounded to odd: its multiples spread evenly modulo 2^64.
GOLDEN = 0x9E3779B97F4A7C15


class RandomStream(IntEnum):
    """What random numbers are used for; streams of one seed are independent."""

    TRAINING_ORDER = 1
    PROBE_ORDER = 2
    OFFSETS = 3
    ROWS = 4
    DOCUMENT_ORDER = 5
    PROBE_OFFSETS = 6
    GROWN_ORDER = 7
    KEPT_DOCUMENTS = 8
    RESAMPLED_WINDOWS = 9


def check_seed(seed: int) -> int:
    """Return ``seed`` after checking that it is in ``[0, 2**64)``.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, found {seed}")
    return seed


def mix(values: NDArray[np.unsignedinteger[Any]]) -> KeyArray:
    """Mix 64-bit integers bijectively, so that every output bit depends on every input bit.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014, with Stafford's constants): shifts bring
    high bits down, odd multiplications modulo 2^64 carry low bits up.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def address_keys(seed: int, stream: RandomStream, *indices: ArrayLike) -> KeyArray:
    """Return one key per address ``(seed, stream, *indices)``.

    Addresses that differ in exactly one component never share a key.

    Args:
        seed: In ``[0, 2**64)``.
        stream: Use of the keys.
        indices: Non-negative integers that broadcast against each other.

    Returns:
        The keys, of the shape that ``indices`` broadcast to, at least one-dimensional.
    """
    keys = np.array([seed], dtype=np.uint64)
    for component in (int(stream), *indices):
        # The constant keeps the all-zero address away from zero, which mix() leaves in place.
        keys = mix((keys ^ np.asarray(component, dtype=np.uint64)) + np.uint64(GOLDEN))
    return keys


NUM_ROUNDS = 12


_ROUND_STEPS = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64) * np.uint64(GOLDEN)


def permute(positions: IntArray, sizes: IntArray, keys: KeyArray) -> IntArray:
    """Return the image of each position under the permutation given by its size and key.

    Time is O(1) a position and memory O(N), for sizes up to ``2**62``.

    Args:
        positions: In ``[0, size)``, shape ``(N,)``.
        sizes: Size of each position's permutation, at least 1, shape ``(N,)``.
        keys: Key that selects a permutation of that size, shape ``(N,)``.

    Returns:
        Images in ``[0, size)``, shape ``(N,)``. For one size and key they are a bijection.
    """
    assert ((positions >= 0) & (positions < sizes)).all()
    half_bits, limits = _half_bits(sizes), sizes.astype(np.uint64)
    round_keys = mix(keys + _ROUND_STEPS[:, None])
    images = positions.astype(np.uint64)
    outside = np.arange(images.size)
    while outside.size:
        images[outside] = _network(images[outside], half_bits[outside], round_keys[:, outside])
        outside = outside[images[outside] >= limits[outside]]
    return images.astype(np.int64)


def _half_bits(sizes: IntArray) -> KeyArray:
    """Return the smallest ``h >= 1`` with ``4**h >= size``.

    Beyond 2^53 the conversion to float may round up to the next power of two. Then ``h`` may be
    one too large, which costs extra rounds and remains a bijection; it is never too small.
    """
    _, bits = np.frexp((sizes - 1).astype(np.float64))
    return np.maximum((bits + 1) // 2, 1).astype(np.uint64)


def _network(values: KeyArray, half_bits: KeyArray, round_keys: KeyArray) -> KeyArray:
    """Apply the rounds: a bijection of ``[0, 4**half_bits)`` for each column of keys."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for keys in round_keys:
        left, right = right, left ^ (mix(right ^ keys) & mask)
    return (left << half_bits) | right
