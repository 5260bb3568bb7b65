"""In which order each domain's windows are drawn, also after domains grew, left or entered.

Each epoch of a domain is a permutation of its own. A domain that grows during an epoch finishes it
over what is left of the old windows and all the new ones.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.permutation import RandomStream, address_keys, permute

MAX_SIZE = 1 << 62


def check_sizes(sizes: IntArray) -> IntArray:
    """Validate the number of windows of each domain and return it as an int64 copy.

    Args:
        sizes: In ``[1, 2**62]``, shape ``(K,)``, ``K >= 1``.

    Raises:
        ValueError: If the shape is wrong or a size is out of range.
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
    domains: IntArray,
    draws: IntArray,
    sizes: IntArray,
    *,
    seed: int,
    stream: RandomStream,
    numbers: IntArray | None = None,
) -> IntArray:
    """Return the window index of each draw.

    Draw ``c`` of domain ``i`` is position ``c % size_i`` of epoch ``c // size_i``. Each epoch has
    its own permutation, so every window is drawn once per epoch.

    Args:
        domains: Domain of each draw, shape ``(N,)``.
        draws: Number of earlier draws from the same domain, shape ``(N,)``.
        sizes: Number of windows of every domain, shape ``(K,)``.
        seed: Seed of the permutations, in ``[0, 2**64)``.
        stream: Random stream; different streams have independent permutations.
        numbers: What addresses the permutations of each domain, shape ``(K,)``; None: its index.

    Returns:
        Window indices inside the domains, shape ``(N,)``.
    """
    limits = sizes[domains]
    epochs, positions = np.divmod(draws, limits)
    addressed = domains if numbers is None else numbers[domains]
    return permute(positions, limits, address_keys(seed, stream, addressed, epochs))


@final
@dataclass(frozen=True, eq=False)
class WindowOrder:
    """The order of the windows of ``K`` domains, as a function of the seed.

    Random numbers are addressed by a domain's number, which it keeps when others leave or enter.
    A domain that never changed has ``start`` and ``epoch`` 0 and no growth.

    A growth at position ``p`` of epoch ``e``, from ``n`` windows to ``m``, permutes the positions
    ``[p, m)`` by ``f`` and leaves those before alone. The window at position ``q`` then is the new
    window ``f(q)`` if that is at least ``n``, else what the epoch had at ``f(q)`` before: each
    window that was not drawn yet, old or new, is drawn once in the rest of the epoch. Growths
    nest.

    Attributes:
        sizes: Windows of each domain, in ``[1, 2**62]``, shape ``(K,)``.
        numbers: Of each domain, all different, at least 0, shape ``(K,)``.
        starts: Draws of each domain before its current epoch at the last revision, ``(K,)``.
        first_epochs: Index of that epoch, shape ``(K,)``.
        growths: One row ``(domain, position, size before, size after)`` for each growth in that
            epoch, by domain, then in order of time, shape ``(G, 4)``.
        reserved: A number that no domain has: that of the specific set's probe windows.
        next_number: Greater than all numbers that were ever given.
    """

    sizes: IntArray
    numbers: IntArray
    starts: IntArray
    first_epochs: IntArray
    growths: IntArray
    reserved: int
    next_number: int

    @classmethod
    def of(cls, sizes: IntArray) -> "WindowOrder":
        """Return the order of domains at the start of a run.

        Args:
            sizes: Windows of each domain, shape ``(K,)``.

        Raises:
            ValueError: If a size is out of range.
        """
        sizes = check_sizes(sizes)
        zeros = np.zeros_like(sizes)
        return cls(
            sizes=sizes,
            numbers=np.arange(sizes.size, dtype=np.int64),
            starts=zeros,
            first_epochs=zeros,
            growths=np.empty((0, 4), dtype=np.int64),
            reserved=sizes.size,
            next_number=sizes.size + 1,
        )

    @property
    def is_initial(self) -> bool:
        """Whether nothing has changed since the start of the run."""
        return (
            self.next_number == self.sizes.size + 1
            and not self.growths.size
            and not self.starts.any()
            and not self.first_epochs.any()
            and bool((self.numbers == np.arange(self.sizes.size)).all())
        )

    @property
    def digest(self) -> str:
        """Equal for equal orders: 16 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.reserved} {self.next_number}".encode())
        for array in (self.sizes, self.numbers, self.starts, self.first_epochs, self.growths):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def epochs(self, cursors: IntArray) -> FloatArray:
        """Return the number of epochs of each domain, shape ``(K,)``.

        Args:
            cursors: Windows drawn from each domain, over all epochs, shape ``(K,)``.
        """
        return self.first_epochs + (cursors - self.starts) / self.sizes

    def epochs_of(self, domains: IntArray, draws: IntArray) -> IntArray:
        """Return the epoch of each draw, from 0, shape ``(N,)``.

        Args:
            domains: Domain of each draw, shape ``(N,)``.
            draws: Number of earlier draws from the same domain, shape ``(N,)``.
        """
        return self.first_epochs[domains] + (draws - self.starts[domains]) // self.sizes[domains]

    def max_draws(self, max_epochs: float) -> IntArray:
        """Return the draws of each domain that make so many epochs, rounded down, ``(K,)``."""
        left = np.floor((max_epochs - self.first_epochs) * self.sizes)
        return self.starts + np.minimum(left, MAX_SIZE).astype(np.int64)

    def windows(self, domains: IntArray, draws: IntArray, *, seed: int) -> IntArray:
        """Return the window index of each draw.

        Args:
            domains: Domain of each draw, shape ``(N,)``.
            draws: Number of earlier draws from the same domain, shape ``(N,)``.
            seed: Seed of the permutations, in ``[0, 2**64)``.

        Returns:
            Window indices inside the domains, shape ``(N,)``.
        """
        limits = self.sizes[domains]
        passed, positions = np.divmod(draws - self.starts[domains], limits)
        epochs = self.first_epochs[domains] + passed
        ends = np.searchsorted(self.growths[:, 0], domains, side="right")
        begins = np.searchsorted(self.growths[:, 0], domains)
        latest = np.where(passed == 0, ends, begins)
        rows = np.arange(domains.size)  # whose window is not decided yet
        while (growing := rows[latest[rows] > begins[rows]]).size:
            latest[growing] -= 1
            self._undo_growth(self.growths[latest[growing]], growing, positions, epochs, seed)
            limits[growing] = self.growths[latest[growing], 2]
            rows = rows[positions[rows] < limits[rows]]
        keys = address_keys(
            seed, RandomStream.TRAINING_ORDER, self.numbers[domains[rows]], epochs[rows]
        )
        positions[rows] = permute(positions[rows], limits[rows], keys)
        return positions

    def _undo_growth(
        self, growths: IntArray, rows: IntArray, positions: IntArray, epochs: IntArray, seed: int
    ) -> None:
        """Move ``positions`` of some rows to where they were before one growth of each."""
        moved = positions[rows] >= growths[:, 1]
        rows, (domains, begins, _, after) = rows[moved], growths[moved].T
        keys = address_keys(
            seed, RandomStream.GROWN_ORDER, self.numbers[domains], epochs[rows], after
        )
        positions[rows] = begins + permute(positions[rows] - begins, after - begins, keys)

    def revised(self, cursors: IntArray, sources: IntArray, sizes: IntArray) -> "RevisedOrder":
        """Return the order of other domains, of which some are these, and may have grown.

        A domain that enters starts at its first epoch, under a number of its own.

        Args:
            cursors: Windows drawn from each domain so far, shape ``(K,)``.
            sources: For each domain afterwards, which of these it is, -1 for one that enters; none
                twice; shape ``(K',)``.
            sizes: Windows of each afterwards; not less than before; shape ``(K',)``.

        Raises:
            ValueError: If a domain has fewer windows than before, or occurs twice.
        """
        sizes = check_sizes(sizes)
        kept = np.flatnonzero(sources >= 0)
        old = sources[kept]
        if np.unique(old).size < old.size:
            raise ValueError("sources: expected each domain once, found one twice")
        if (shrunk := sizes[kept] < self.sizes[old]).any():
            index = int(kept[np.argmax(shrunk)])
            raise ValueError(
                f"sizes: expected at least {self.sizes[sources[index]]} windows, as before, "
                f"found {sizes[index]} at index {index}"
            )
        passed, positions = np.divmod(cursors - self.starts, self.sizes)
        starts, epochs, numbers, drawn = (np.zeros_like(sizes) for _ in range(4))
        starts[kept] = (cursors - positions)[old]
        epochs[kept] = (self.first_epochs + passed)[old]
        drawn[kept] = cursors[old]
        numbers[kept] = self.numbers[old]
        entering = np.flatnonzero(sources < 0)
        numbers[entering] = self.next_number + np.arange(entering.size)
        order = replace(
            self,
            sizes=sizes,
            numbers=numbers,
            starts=starts,
            first_epochs=epochs,
            growths=self._revised_growths(passed, positions, sources, sizes),
            next_number=self.next_number + entering.size,
        )
        return RevisedOrder(order, drawn)

    def _revised_growths(
        self, passed: IntArray, positions: IntArray, sources: IntArray, sizes: IntArray
    ) -> IntArray:
        """Return the growths of the epochs that are still running, and the new ones."""
        places = np.full(self.sizes.size, -1, dtype=np.int64)  # of each domain afterwards
        kept = np.flatnonzero(sources >= 0)
        places[sources[kept]] = kept
        owners = self.growths[:, 0]
        # Where nothing of the running epoch was drawn, it becomes a plain permutation.
        running = (passed == 0) & (positions > 0) & (places >= 0)
        earlier = self.growths[running[owners]].copy()
        earlier[:, 0] = places[earlier[:, 0]]
        before = self.sizes[sources[kept]]
        grew = (sizes[kept] > before) & (positions[sources[kept]] > 0)
        new = np.stack([kept, positions[sources[kept]], before, sizes[kept]], axis=1)[grew]
        growths = np.concatenate([earlier, new]).astype(np.int64)
        return growths[np.argsort(growths[:, 0], kind="stable")]


@final
@dataclass(frozen=True, eq=False)
class RevisedOrder:
    """A revised order, and how far it is.

    Attributes:
        order: Of the domains afterwards, ``K'`` of them.
        cursors: Windows drawn from each of them so far, 0 for those that enter, shape ``(K',)``.
    """

    order: WindowOrder
    cursors: IntArray
