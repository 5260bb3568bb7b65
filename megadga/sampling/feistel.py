"""Shuffles ``[0, size)`` for any size without storing it. Knows no domain and no epoch.

A Feistel network of balanced halves is a bijection of ``[0, 4**h)``, whatever its round function
is: a round ``(left, right) -> (right, left XOR f(right))`` is undone by computing the same ``f``
once more. With ``h`` the smallest half-width for which ``4**h >= size``, the network covers
``[0, size)`` and less than four times that (``h >= 1``: at least four values).

Cycle walking narrows it down to exactly ``[0, size)``: an image outside is sent through the
network again until it falls inside. A walk that starts inside stays on one cycle of the network,
so it comes back inside, and two walks cannot end in one place: the result is a bijection of
``[0, size)``. About a quarter of the images or more are inside: four passes on average at worst.

The round function is SplitMix64's finaliser of the right half and a round key, cut to ``h`` bits;
round keys are further terms of the SplitMix64 sequence that starts at the caller's key. Luby and
Rackoff prove 4 rounds enough for halves of many bits. Domains of a few windows have halves of one
to three, where a round does little: over 40,000 keys and sizes up to 64, the distance between the
images of neighbours is far from evenly spread after 4 rounds, measurably after 8, no longer after
12. They are cheap beside reading a window.
"""

import numpy as np

from megadga.arrays import IntArray
from megadga.sampling.addresses import GOLDEN, KeyArray, mix

NUM_ROUNDS = 12
_ROUND_STEPS = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64) * np.uint64(GOLDEN)


def permute(positions: IntArray, sizes: IntArray, keys: KeyArray) -> IntArray:
    """Return where each position goes in the permutation that its size and key stand for.

    Time is O(1) a position and memory O(N), for sizes up to ``2**62``.

    Args:
        positions: In ``[0, size)``, shape ``(N,)``.
        sizes: Number of elements of each position's permutation, at least 1, shape ``(N,)``.
        keys: Which permutation of that size, shape ``(N,)``.

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
    one too large, which costs passes and stays a bijection; it is never too small.
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
