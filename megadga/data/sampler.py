"""Plans global batches as a pure function of (seed, state, weights).

Domains come from systematic or multinomial sampling of the weights, windows from each domain's
shuffled order, and a cap on epochs limits repetition.
"""

from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.data.permutation import GOLDEN, RandomStream, address_keys, check_seed, permute
from megadga.errors import ExhaustedError


@dataclass(frozen=True, eq=False)
class Selection:
    """Windows to read, in order.

    Attributes:
        domains: Which domain each comes from, in ``[0, K)``, shape ``(N,)``.
        sequences: Which window of that domain, already permuted, shape ``(N,)``.

    Raises:
        ValueError: If the two shapes are not one ``(N,)``.
    """

    domains: IntArray
    sequences: IntArray

    def __post_init__(self) -> None:
        if self.domains.ndim != 1 or self.domains.shape != self.sequences.shape:
            raise ValueError(
                f"selection: expected domains and sequences of one shape (N,), found "
                f"{self.domains.shape} and {self.sequences.shape}"
            )

    def __len__(self) -> int:
        return self.domains.size


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
    domains: IntArray, draws: IntArray, sizes: IntArray, *, seed: int, stream: RandomStream
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


def cap_weights(weights: FloatArray, limits: IntArray, num_rows: int) -> FloatArray:
    """Hand the mass above ``limits / num_rows`` to the other domains, in proportion to theirs.

    This is the nearest mixture in ``KL(w || weights)`` that satisfies the limits:
    ``w_i = min(limits_i / B, c weights_i)`` with the ``c`` for which they sum to 1.

    Args:
        weights: A mixture, shape ``(K,)``.
        limits: The most rows each domain may get, not negative, shape ``(K,)``. Those of the
            domains with a weight sum to at least ``num_rows``.
        num_rows: ``B``.

    Returns:
        ``weights`` itself if no limit binds, else a new array. Zeros stay zero.
    """
    if not (weights * num_rows > limits).any():
        return weights
    capped = np.zeros(weights.shape, dtype=bool)
    expected = weights * num_rows
    while (above := expected > limits).any():
        capped |= above
        # Sums of limits are exact, so what is left to hand out is never negative.
        rows_left = num_rows - int(limits[capped].sum())
        free = ~capped & (weights > 0.0)
        expected = np.where(capped, limits, 0.0)
        if free.any():
            expected[free] = weights[free] / weights[free].sum() * rows_left
    return expected / num_rows


def move_surplus(
    domains: IntArray, expected: FloatArray, limits: IntArray, rng: np.random.Generator
) -> IntArray:
    """Give rows that exceed a domain's limit to domains that got fewer than they expect.

    Independent draws overshoot a limit by chance. Systematic ones can do so only by rounding where
    a domain expects its limit; the row that is moved then keeps both within one of expectation.

    Args:
        domains: The domain of each row, shape ``(B,)``.
        expected: Expected rows, at most ``limits``, sum ``B`` up to rounding, shape ``(K,)``.
        limits: The most rows each domain may get, shape ``(K,)``.
        rng: Decides between the domains that are short.

    Returns:
        Domains of which none occurs more often than its limit, shape ``(B,)``.
    """
    while (surplus := occurrences(domains) >= limits[domains]).any():
        kept = np.bincount(domains[~surplus], minlength=expected.size)
        missing = np.maximum(expected - kept, 0.0)
        domains = domains.copy()
        domains[surplus] = systematic(missing, int(surplus.sum()), rng.random())
    return domains


def systematic(weights: FloatArray, num_rows: int, offset: float) -> IntArray:
    """Draw one row from each unit of the line: the points are ``offset + 0, 1, ..., B - 1``.

    Domain ``i`` expects ``e_i = B weights_i / sum`` rows. It is drawn ``floor(e_i)`` or
    ``ceil(e_i)`` times whatever the offset, and ``e_i`` times on average over offsets uniform in
    ``[0, 1)`` (Madow 1949). O(K + B log K).

    Args:
        weights: Not negative, not all 0, in any unit, shape ``(K,)``.
        num_rows: ``B``, at least 1.
        offset: In ``[0, 1)``.

    Returns:
        Domains in ascending order, shape ``(B,)``; never one without weight.
    """
    # On this grid offset + row is exact: no point is rounded up into the next unit.
    grid = float(np.spacing(float(num_rows)))
    return _locate(weights, np.arange(num_rows) + np.floor(offset / grid) * grid, num_rows)


def golden_offset(start: int, number: int) -> float:
    """Return a term of the Kronecker sequence ``u_0 + t / golden ratio (mod 1)``, in ``[0, 1)``.

    It is computed modulo 2^64 in integers: no rounding grows with the number.

    Args:
        start: ``u_0 * 2^64``, in ``[0, 2^64)``.
        number: ``t``, at least 0.
    """
    return ((start + number * GOLDEN) % 2**64 >> 11) * 2.0**-53


def multinomial(weights: FloatArray, num_rows: int, rng: np.random.Generator) -> IntArray:
    """Draw every row on its own, as Algorithm 1 of the paper says it.

    Args:
        weights: Not negative, not all 0, in any unit, shape ``(K,)``.
        num_rows: ``B``, at least 1.
        rng: Where the ``B`` random numbers come from.

    Returns:
        Domains, shape ``(B,)``; never one without weight.
    """
    return _locate(weights, rng.random(num_rows) * num_rows, num_rows)


def occurrences(domains: IntArray) -> IntArray:
    """Return how many rows before each row are of the same domain, shape ``(N,)``."""
    order = np.argsort(domains, kind="stable")
    ordered = domains[order]
    counts = np.empty_like(domains)
    counts[order] = np.arange(domains.size) - np.searchsorted(ordered, ordered)
    return counts


def _locate(weights: FloatArray, points: FloatArray, num_rows: int) -> IntArray:
    """Return the domain on whose part of the line ``[0, num_rows)`` each point lies.

    Domain ``i`` owns ``[ends[i-1], ends[i])``, which is empty where there is no weight.
    """
    ends = np.cumsum(weights)
    ends *= num_rows / ends[-1]
    # Rounding may leave the last end below the last point. Domains after the last one with weight
    # share its end, so that their parts stay empty.
    ends[ends == ends[-1]] = num_rows
    return np.searchsorted(ends, points, side="right").astype(np.int64, copy=False)


DrawMethod = Literal["systematic", "multinomial"]


@dataclass(frozen=True, eq=False)
class SamplerState:
    """How far the training data has been consumed.

    Attributes:
        step: Batches planned so far.
        cursors: Windows drawn from each domain so far, over all epochs, shape ``(K,)``.
    """

    step: int
    cursors: IntArray


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """One global batch.

    Attributes:
        selection: Its windows, row by row, ``B`` of them.
        weights: The mixture that they were drawn from, after the cap on repetitions, ``(K,)``.
        state_after: The state once the batch is consumed.
    """

    selection: Selection
    weights: FloatArray
    state_after: SamplerState


@final
class MixtureSampler:
    """Draws batches from a mixture of domains whose windows come in shuffled epochs.

    Args:
        sizes: Windows of each domain, in ``[1, 2**62]``, shape ``(K,)``.
        global_batch_size: ``B``, sequences of a batch over all ranks, at least 1.
        seed: Addresses all randomness, in ``[0, 2**64)``.
        method: ``systematic`` gives each domain ``B * weight`` rows rounded down or up in every
            batch. ``multinomial`` draws rows independently, as the paper has it.
        max_epochs: The most often a domain may be repeated: it never gets more than
            ``floor(max_epochs * size)`` draws, and its mass goes to the others. None: no bound.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sizes: IntArray,
        *,
        global_batch_size: int,
        seed: int,
        method: DrawMethod = "systematic",
        max_epochs: float | None = None,
    ) -> None:
        if global_batch_size < 1:
            raise ValueError(f"global_batch_size: expected at least 1, found {global_batch_size}")
        if method not in get_args(DrawMethod):
            raise ValueError(f"method: expected one of {get_args(DrawMethod)}, found {method!r}")
        if max_epochs is not None and not 0.0 < max_epochs < np.inf:
            raise ValueError(f"max_epochs: expected a finite number > 0, found {max_epochs}")
        self._sizes = check_sizes(sizes)
        self._num_rows = global_batch_size
        self._seed = check_seed(seed)
        self._method = method
        self._most_draws = None if max_epochs is None else _most_draws(self._sizes, max_epochs)

    def init(self) -> SamplerState:
        """Return the state before the first batch."""
        return SamplerState(step=0, cursors=np.zeros_like(self._sizes))

    def plan(self, state: SamplerState, weights: FloatArray) -> BatchPlan:
        """Plan the batch that follows ``state``. Pure: equal arguments give equal bits.

        Args:
            state: How far the data has been consumed; it stays as it is.
            weights: The mixture to draw from, shape ``(K,)``. Weight 0 means never drawn.

        Raises:
            ValueError: If the weights are no distribution, or of another number of domains.
            ExhaustedError: If the domains with a weight have too few windows left for a batch.
        """
        self._check_shapes(state, weights)
        weights = check_simplex(weights)
        rng = np.random.default_rng((self._seed, RandomStream.ROWS, state.step))
        if self._most_draws is None:
            domains = self._draw(weights, state.step, rng)
        else:
            limits = np.clip(self._most_draws - state.cursors, 0, self._num_rows)
            self._check_supply(state, weights, limits)
            weights = cap_weights(weights, limits, self._num_rows)
            expected = np.minimum(weights * self._num_rows, limits)
            domains = self._draw(expected, state.step, rng)
            domains = move_surplus(domains, expected, limits, rng)
        # Rows come sorted by domain; shuffled, every micro-batch is a mixture.
        domains = rng.permutation(domains)
        draws = state.cursors[domains] + occurrences(domains)
        sequences = shuffled_windows(
            domains, draws, self._sizes, seed=self._seed, stream=RandomStream.TRAINING_ORDER
        )
        cursors = state.cursors + np.bincount(domains, minlength=self._sizes.size)
        after = SamplerState(step=state.step + 1, cursors=cursors)
        return BatchPlan(Selection(domains, sequences), weights, after)

    def epochs(self, state: SamplerState) -> FloatArray:
        """Return how often each domain has been gone through, shape ``(K,)``."""
        return state.cursors / self._sizes

    def _draw(self, weights: FloatArray, step: int, rng: np.random.Generator) -> IntArray:
        if self._method == "multinomial":
            return multinomial(weights, self._num_rows, rng)
        return systematic(weights, self._num_rows, kronecker_offset(self._seed, step))

    def _check_supply(self, state: SamplerState, weights: FloatArray, limits: IntArray) -> None:
        if (supply := int(limits[weights > 0.0].sum())) < self._num_rows:
            raise ExhaustedError(
                f"step {state.step + 1}: expected {self._num_rows} sequences for a batch, found "
                f"{supply} left under max_epochs in the domains with a weight > 0"
            )

    def _check_shapes(self, state: SamplerState, weights: FloatArray) -> None:
        for name, array in (("cursors", state.cursors), ("weights", weights)):
            if array.shape != self._sizes.shape:
                raise ValueError(
                    f"{name}: expected shape {self._sizes.shape}, found {array.shape}"
                )


def _most_draws(sizes: IntArray, max_epochs: float) -> IntArray:
    return np.minimum(np.floor(max_epochs * sizes), MAX_SIZE).astype(np.int64)


def kronecker_offset(seed: int, step: int) -> float:
    """Return the offset of a step's systematic draw, in ``[0, 1)``.

    The Kronecker sequence ``u_t = u_0 + t / golden ratio (mod 1)`` fills the interval more evenly
    than independent numbers, so that rare domains come at nearly regular distances over the steps.
    """
    return golden_offset(int(address_keys(seed, RandomStream.OFFSETS)[0]), step)
