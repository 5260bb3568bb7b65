"""Plans global batches as a pure function of (seed, state, weights).

Domains come from systematic or multinomial sampling of the weights, windows from each domain's
shuffled order, and a cap on epochs limits repetition.
"""

from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.data.order import WindowOrder
from megadga.data.permutation import GOLDEN, RandomStream, address_keys, check_seed
from megadga.data.resampling import Resampling
from megadga.errors import ExhaustedError


@dataclass(frozen=True, eq=False)
class Selection:
    """Windows to read, in order.

    Attributes:
        domains: Domain of each window, in ``[0, K)``, shape ``(N,)``.
        sequences: Window index inside that domain, already permuted, shape ``(N,)``.

    Raises:
        ValueError: If the shapes are not the same ``(N,)``.
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


def cap_weights(weights: FloatArray, limits: IntArray, num_rows: int) -> FloatArray:
    """Move the mass above ``limits / num_rows`` to the other domains, in proportion.

    This is the nearest mixture in ``KL(w || weights)`` that satisfies the limits:
    ``w_i = min(limits_i / B, c weights_i)`` with the ``c`` for which they sum to 1.

    Args:
        weights: A mixture, shape ``(K,)``.
        limits: Maximum rows of each domain, not negative, shape ``(K,)``. The limits of domains
            with positive weight sum to at least ``num_rows``.
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
        # Integer sums of limits are exact, so the remainder is never negative.
        rows_left = num_rows - int(limits[capped].sum())
        free = ~capped & (weights > 0.0)
        expected = np.where(capped, limits, 0.0)
        if free.any():
            expected[free] = weights[free] / weights[free].sum() * rows_left
    return expected / num_rows


def move_surplus(
    domains: IntArray, expected: FloatArray, limits: IntArray, rng: np.random.Generator
) -> IntArray:
    """Move rows above a domain's limit to domains that got fewer rows than expected.

    Independent draws may exceed a limit by chance. Systematic draws exceed it only through
    rounding, where a domain's expectation equals its limit; moving that row keeps both domains
    within one row of their expectation.

    Args:
        domains: The domain of each row, shape ``(B,)``.
        expected: Expected rows, at most ``limits``, sum ``B`` up to rounding, shape ``(K,)``.
        limits: Maximum rows of each domain, shape ``(K,)``.
        rng: Chooses among the domains with missing rows.

    Returns:
        The domain of each row, none above its limit, shape ``(B,)``.
    """
    while (surplus := occurrences(domains) >= limits[domains]).any():
        kept = np.bincount(domains[~surplus], minlength=expected.size)
        missing = np.maximum(expected - kept, 0.0)
        domains = domains.copy()
        domains[surplus] = systematic(missing, int(surplus.sum()), rng.random())
    return domains


def systematic(weights: FloatArray, num_rows: int, offset: float) -> IntArray:
    """Draw ``B`` rows by systematic sampling, at the points ``offset + 0, 1, ..., B - 1``.

    The expected number of rows of domain ``i`` is ``e_i = B weights_i / sum``. For every offset it
    is drawn ``floor(e_i)`` or ``ceil(e_i)`` times, and ``e_i`` times on average over offsets
    uniform in ``[0, 1)`` (Madow 1949). O(K + B log K).

    Args:
        weights: Not negative, not all 0, in any unit, shape ``(K,)``.
        num_rows: ``B``, at least 1.
        offset: In ``[0, 1)``.

    Returns:
        Domains in ascending order, shape ``(B,)``; only domains with positive weight.
    """
    # Rounded to this grid, offset + row is exact: no point is rounded up into the next unit.
    grid = float(np.spacing(float(num_rows)))
    return _locate(weights, np.arange(num_rows) + np.floor(offset / grid) * grid, num_rows)


def golden_offset(start: int, number: int) -> float:
    """Return a term of the Kronecker sequence ``u_0 + t / golden ratio (mod 1)``, in ``[0, 1)``.

    Computed in integers modulo 2^64, so that the rounding error does not grow with ``number``.

    Args:
        start: ``u_0 * 2^64``, in ``[0, 2^64)``.
        number: ``t``, at least 0.
    """
    return ((start + number * GOLDEN) % 2**64 >> 11) * 2.0**-53


def multinomial(weights: FloatArray, num_rows: int, rng: np.random.Generator) -> IntArray:
    """Draw every row independently, as in Algorithm 1 of the paper.

    Args:
        weights: Not negative, not all 0, in any unit, shape ``(K,)``.
        num_rows: ``B``, at least 1.
        rng: Source of the ``B`` random numbers.

    Returns:
        Domains, shape ``(B,)``; only domains with positive weight.
    """
    return _locate(weights, rng.random(num_rows) * num_rows, num_rows)


def occurrences(domains: IntArray) -> IntArray:
    """Return, for each row, the number of earlier rows of the same domain, shape ``(N,)``."""
    order = np.argsort(domains, kind="stable")
    ordered = domains[order]
    counts = np.empty_like(domains)
    counts[order] = np.arange(domains.size) - np.searchsorted(ordered, ordered)
    return counts


def _locate(weights: FloatArray, points: FloatArray, num_rows: int) -> IntArray:
    """Return the domain whose interval of ``[0, num_rows)`` contains each point.

    The interval of domain ``i`` is ``[ends[i-1], ends[i])``, empty for weight 0.
    """
    ends = np.cumsum(weights)
    ends *= num_rows / ends[-1]
    # Rounding may leave the last end below the last point. Trailing domains of weight 0 share the
    # last end, so that their intervals stay empty.
    ends[ends == ends[-1]] = num_rows
    return np.searchsorted(ends, points, side="right").astype(np.int64, copy=False)


DrawMethod = Literal["systematic", "multinomial"]


@dataclass(frozen=True, eq=False)
class SamplerState:
    """Progress through the training data.

    Attributes:
        step: Batches planned.
        cursors: Windows drawn from each domain, over all epochs, shape ``(K,)``.
    """

    step: int
    cursors: IntArray


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """One global batch.

    Attributes:
        selection: The ``B`` windows of the batch.
        weights: Sampling weights after the cap on repetitions, shape ``(K,)``.
        state_after: The state after the batch has been consumed.
        factors: What each window counts in the loss beside others of its domain, shape ``(B,)``;
            None: all alike.
    """

    selection: Selection
    weights: FloatArray
    state_after: SamplerState
    factors: FloatArray | None = None


@final
class MixtureSampler:
    """Plans batches from a mixture of domains, each traversed in shuffled epochs.

    Args:
        sizes: Windows of each domain, in ``[1, 2**62]``, shape ``(K,)``; or the order of domains
            that were revised.
        global_batch_size: ``B``, sequences per batch over all ranks, at least 1.
        seed: Seed of all random choices, in ``[0, 2**64)``.
        method: ``systematic`` gives each domain ``B * weight`` rows, rounded down or up, in every
            batch. ``multinomial`` draws rows independently, as in the paper.
        max_epochs: Maximum number of epochs of a domain: it gets at most
            ``floor(max_epochs * size)`` draws, and its mass moves to the others. None: no limit.

    Attributes:
        order: The order of each domain's windows.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sizes: IntArray | WindowOrder,
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
        self.order = sizes if isinstance(sizes, WindowOrder) else WindowOrder.of(sizes)
        self._num_rows = global_batch_size
        self._seed = check_seed(seed)
        self._method = method
        self._max_draws = None if max_epochs is None else self.order.max_draws(max_epochs)

    def init(self) -> SamplerState:
        """Return the state before the first batch."""
        return SamplerState(step=0, cursors=np.zeros_like(self.order.sizes))

    def plan(
        self, state: SamplerState, weights: FloatArray, resampling: Resampling | None = None
    ) -> BatchPlan:
        """Plan the batch that follows ``state``. Pure: equal arguments give equal bits.

        Args:
            state: Progress so far; not modified.
            weights: Sampling weights on the simplex, shape ``(K,)``; weight 0 is never drawn.
            resampling: How windows are drawn after the first epoch of their domain; None: every
                epoch has each window once.

        Raises:
            ValueError: If the weights are not on the simplex or have the wrong length.
            ExhaustedError: If too few windows are left under ``max_epochs`` for a batch.
        """
        rng = np.random.default_rng((self._seed, RandomStream.ROWS, state.step))
        domains, weights = self._sorted_rows(state, weights, rng)
        # Rows are sorted by domain: shuffle them, so that every micro-batch is a mixture.
        domains = rng.permutation(domains)
        draws = state.cursors[domains] + occurrences(domains)
        sequences = self.order.windows(domains, draws, seed=self._seed)
        factors = None
        if resampling is not None:
            factors = np.ones(domains.size)
            again = np.flatnonzero(self.order.epochs_of(domains, draws) > 0)
            sequences[again], factors[again] = resampling.draw(
                domains[again], draws[again], self.order.numbers, seed=self._seed
            )
        after = self._after(state, domains)
        return BatchPlan(Selection(domains, sequences), weights, after, factors)

    def advance(self, state: SamplerState, weights: FloatArray) -> SamplerState:
        """Return ``plan(state, weights).state_after``, without planning which windows are read.

        Raises:
            ValueError: As ``plan`` does.
            ExhaustedError: Likewise.
        """
        rng = np.random.default_rng((self._seed, RandomStream.ROWS, state.step))
        return self._after(state, self._sorted_rows(state, weights, rng)[0])

    def epochs(self, state: SamplerState) -> FloatArray:
        """Return the number of epochs of each domain, shape ``(K,)``."""
        return self.order.epochs(state.cursors)

    def _sorted_rows(
        self, state: SamplerState, weights: FloatArray, rng: np.random.Generator
    ) -> tuple[IntArray, FloatArray]:
        """Return the domain of each row before rows are shuffled, and the capped weights."""
        self._check_shapes(state, weights)
        weights = check_simplex(weights)
        if self._max_draws is None:
            return self._draw(weights, state.step, rng), weights
        limits = np.clip(self._max_draws - state.cursors, 0, self._num_rows)
        self._check_supply(state, weights, limits)
        weights = cap_weights(weights, limits, self._num_rows)
        expected = np.minimum(weights * self._num_rows, limits)
        domains = self._draw(expected, state.step, rng)
        return move_surplus(domains, expected, limits, rng), weights

    def _after(self, state: SamplerState, domains: IntArray) -> SamplerState:
        cursors = state.cursors + np.bincount(domains, minlength=state.cursors.size)
        return SamplerState(step=state.step + 1, cursors=cursors)

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
            if array.shape != (expected := self.order.sizes.shape):
                raise ValueError(f"{name}: expected shape {expected}, found {array.shape}")


def kronecker_offset(seed: int, step: int) -> float:
    """Return the offset of a step's systematic draw, in ``[0, 1)``.

    The Kronecker sequence ``u_t = u_0 + t / golden ratio (mod 1)`` covers the interval more evenly
    than independent numbers, so that rare domains are drawn at nearly regular intervals.
    """
    return golden_offset(int(address_keys(seed, RandomStream.OFFSETS)[0]), step)
