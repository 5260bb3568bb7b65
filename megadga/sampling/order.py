"""The endless shuffled order of each domain's windows. Knows no batch and no weights."""

import numpy as np

from megadga.arrays import IntArray
from megadga.sampling.addresses import Stream, address_keys
from megadga.sampling.feistel import permute

MAX_SIZE = 1 << 62


def check_sizes(sizes: IntArray) -> IntArray:
    """Return a copy of the number of windows of each domain after checking it.

    Args:
        sizes: In ``[1, 2**62]``, shape ``(K,)``, ``K >= 1``.

    Raises:
        ValueError: If the shape or a size is wrong.
    """
    sizes = np.array(sizes, dtype=np.int64)
    if sizes.ndim != 1 or sizes.size == 0:
        raise ValueError(f"sizes: expected shape (K,) with K >= 1, found {sizes.shape}")
    if (wrong := (sizes < 1) | (sizes > MAX_SIZE)).any():
        index = int(np.argmax(wrong))
        raise ValueError(
            f"sizes: expected 1 <= size <= 2**62, found {sizes[index]} at index {index}"
        )
    return sizes


def shuffled_windows(
    domains: IntArray, draws: IntArray, sizes: IntArray, *, seed: int, stream: Stream
) -> IntArray:
    """Return the window that each draw from a domain gets.

    Draw ``c`` of domain ``i`` is position ``c % size_i`` of epoch ``c // size_i``. Each epoch is a
    permutation of its own, so every window comes once an epoch.

    Args:
        domains: Which domain each draw is from, shape ``(N,)``.
        draws: How many draws from that domain came before it, shape ``(N,)``.
        sizes: Number of windows of every domain, shape ``(K,)``.
        seed: Addresses the permutations, in ``[0, 2**64)``.
        stream: Apart streams have apart permutations.

    Returns:
        Window indices inside the domains, shape ``(N,)``.
    """
    limits = sizes[domains]
    epochs, positions = np.divmod(draws, limits)
    return permute(positions, limits, address_keys(seed, stream, domains, epochs))
