"""Plans global batches as a pure function of (seed, state, weights).

Every rank computes the same plan without communication, and a resumed run goes on with the windows
that the uninterrupted one would have read. Knows no tokens, files or ranks.
"""

from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.errors import ExhaustedError
from megadga.sampling.addresses import Stream, address_keys, check_seed
from megadga.sampling.caps import cap_weights, move_surplus
from megadga.sampling.draws import golden_offset, multinomial, occurrences, systematic
from megadga.sampling.order import MAX_SIZE, check_sizes, shuffled_windows
from megadga.sampling.selection import Selection

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
        rng = np.random.default_rng((self._seed, Stream.ROWS, state.step))
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
            domains, draws, self._sizes, seed=self._seed, stream=Stream.TRAINING_ORDER
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
    return golden_offset(int(address_keys(seed, Stream.OFFSETS)[0]), step)
