"""The scheduler protocol: explicit state in, new state out; and what schedulers observe.

A scheduler says what it observes (alignments, training losses, the step, or nothing), and updates
a `MixtureState` from it. All of it is numpy: no torch, no ranks, no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, Protocol, final

import numpy as np

from megadga.arrays import FloatArray, IntArray

Memory = Mapping[str, FloatArray]
"""What a rule remembers beside its weights, by name."""

TOLERANCE = 1e-12
"""How far a row may be from a sum of 1. Mixtures of rows are no further off than their weights and
this, which is far less than what samplers accept, so that nothing has to be divided out."""


@final
@dataclass(frozen=True, eq=False)
class Mixtures:
    """``n`` distributions over ``K`` domains: P of shape ``(n, K)``, as compressed sparse rows.

    The arrays are those of ``scipy.sparse.csr_array``, which would add half a second of import and
    save no line: what is used of it is the product with a vector, one call of ``bincount``.

    Attributes:
        names: What records call the rows, ``n >= 1`` of them.
        num_domains: ``K``.
        indptr: Where each row's entries begin, and end, shape ``(n + 1,)``; no row is empty.
        indices: The entries' domains, in ``[0, K)``, ascending in each row, shape ``(entries,)``.
        data: The entries' shares, above 0, shape ``(entries,)``; each row sums to 1 within
            ``TOLERANCE``.

    Raises:
        ValueError: If something is not as said.
    """

    names: tuple[str, ...]
    num_domains: int
    indptr: IntArray
    indices: IntArray
    data: FloatArray

    def __post_init__(self) -> None:
        try:
            check_rows(self.names, self.num_domains, self.indptr, self.indices, self.data)
        except ValueError as error:
            raise ValueError(f"mixtures: {error}") from None

    @property
    def num_entries(self) -> int:
        """Numbers above 0 in P."""
        return self.data.size

    @cached_property
    def rows(self) -> IntArray:
        """Row of each entry, shape ``(entries,)``."""
        return np.repeat(np.arange(len(self.names), dtype=np.int64), np.diff(self.indptr))

    def row(self, index: int) -> tuple[IntArray, FloatArray]:
        """Return the domains of one row, ascending, and their shares; views, of one length."""
        entries = slice(self.indptr[index], self.indptr[index + 1])
        return self.indices[entries], self.data[entries]

    def mix(self, weights: FloatArray) -> FloatArray:
        """Return ``weights @ P``, a distribution over the domains, shape ``(K,)``.

        Time and memory are linear in K and the entries. Each domain's terms are added in the order
        of the rows, so that equal weights give equal bits; of the identity they are the weights'.

        Args:
            weights: A distribution over the rows, shape ``(n,)``.
        """
        shares = weights[self.rows] * self.data
        mixed = np.bincount(self.indices, weights=shares, minlength=self.num_domains)
        return mixed.astype(np.float64, copy=False)


def check_rows(
    names: Sequence[str], num_columns: int, indptr: IntArray, indices: IntArray, data: FloatArray
) -> None:
    """Check that compressed sparse rows are distributions.

    Args:
        names: The rows' names, at least one.
        num_columns: Columns of the matrix.
        indptr: See `Mixtures`.
        indices: See `Mixtures`.
        data: See `Mixtures`.

    Raises:
        ValueError: If they are not; names the array and, where there is one, the row.
    """
    expected = (len(names) + 1,)
    if not names or indptr.shape != expected:
        raise ValueError(
            f"indptr: expected the shape {expected} for {len(names)} names, found {indptr.shape}"
        )
    if data.ndim != 1 or indices.shape != data.shape:
        raise ValueError(
            f"indices: expected the shape {data.shape} of data, found {indices.shape}"
        )
    if (indptr[0], indptr[-1]) != (0, data.size) or not (indptr[1:] > indptr[:-1]).all():
        raise ValueError(f"indptr: expected to ascend from 0 to {data.size}, found something else")
    for name, (begin, end) in zip(names, pairwise(indptr.tolist()), strict=True):
        columns, values = indices[begin:end], data[begin:end]
        ascend = bool((columns[1:] > columns[:-1]).all())
        if columns[0] < 0 or columns[-1] >= num_columns or not ascend:
            raise ValueError(
                f"indices: {name}: expected to ascend in [0, {num_columns}), found something else"
            )
        if not ((values > 0.0) & (values <= 1.0 + TOLERANCE)).all():
            raise ValueError(f"data: {name}: expected values in (0, 1], found others")
        if abs((total := float(values.sum())) - 1.0) > TOLERANCE:
            raise ValueError(f"data: {name}: expected a sum of 1, found {total!r}")


def row_sums(data: FloatArray, indptr: IntArray) -> FloatArray:
    """Return the sum of each row's entries, shape ``(n,)``.

    Row by row, as numpy adds a whole array pairwise: in ``reduceat`` and ``bincount`` the rounding
    of some hundred thousand terms may add up to more than ``TOLERANCE``.
    """
    return np.array([data[begin:end].sum() for begin, end in pairwise(indptr.tolist())])


@dataclass(frozen=True)
class AlignmentNeeds:
    """What a rule reads of alignments besides the inner products: what costs more to measure.

    Attributes:
        norms: ``|g_i|^2`` of every domain; each takes a whole gradient of its own, reduced over
            the ranks.
        preconditioned: The target's gradient divided by what AdamW divides its own by.
        without_moments: What to do about ``preconditioned`` before AdamW has second moments:
            ``refuse`` is an error; ``raw`` measures along the specific gradient itself.
        target: Whose gradient the domains' are aligned with: that of the specific set, or the
            mean over the training domains of theirs, each counted once.
        mixtures: What is measured in the domains' place: sequences drawn from mixtures of them.
            Every array of `Alignments` is then of shape ``(n,)``. None: the domains themselves.
    """

    norms: bool = False
    preconditioned: bool = False
    without_moments: Literal["refuse", "raw"] = "refuse"
    target: Literal["specific", "domains"] = "specific"
    mixtures: Mixtures | None = None


@dataclass(frozen=True, eq=False)
class Alignments:
    """What one probe measured.

    Attributes:
        dots: ``a_i = <g_i, d>`` of each domain's gradient with the direction, shape ``(K,)``.
        specific_squared_norm: ``|v|^2`` of the target's gradient, the specific set's if a rule
            asks for no other.
        squared_norms: ``|g_i|^2``, shape ``(K,)``; None if nobody asked for them.
        standard_errors: Of ``dots``, over the choice of each domain's sequences with the
            direction held, shape ``(K,)``; None if the probe sees no single sequences, or one a
            domain.
        direction_energy: Share of ``|v|^2`` that the direction holds, in ``[0, 1]``; below 1 for
            thin factors, and an estimate then.
        preconditioned: Whether the direction ``d`` is ``v`` divided by AdamW's second moments;
            else it is ``v`` itself.
        counts: Sequences that this update measured each domain on, shape ``(K,)``; 0 where
            ``dots`` is of an earlier one. None: of this update, on unknown numbers.
        general_loss: Mean validation loss over the domains at the last evaluation, nats per token;
            None if there was none.
        step: Optimizer steps completed; None if that is not known.
        epochs: Epochs of each domain that were drawn until then, shape ``(K,)``; None likewise.
            Over basis distributions as well they are the domains'.

    Raises:
        ValueError: If the arrays are not all of one shape ``(K,)``.
    """

    dots: FloatArray
    specific_squared_norm: float
    squared_norms: FloatArray | None = None
    standard_errors: FloatArray | None = None
    direction_energy: float = 1.0
    preconditioned: bool = False
    counts: IntArray | None = None
    general_loss: float | None = None
    step: int | None = None
    epochs: FloatArray | None = None

    def __post_init__(self) -> None:
        shapes = [array.shape for array in self._arrays()]
        if self.counts is not None:
            shapes.append(self.counts.shape)
        if self.dots.ndim != 1 or len(set(shapes)) != 1:
            found = ", ".join(map(str, shapes))
            raise ValueError(f"alignments: expected arrays of one shape (K,), found {found}")

    def is_finite(self) -> bool:
        """Tell whether every number that was probed is neither infinite nor NaN."""
        return _all_finite(*self._arrays(), np.asarray(self.specific_squared_norm))

    def _arrays(self) -> tuple[FloatArray, ...]:
        optional = (self.squared_norms, self.standard_errors)
        return (self.dots, *(array for array in optional if array is not None))


@dataclass(frozen=True)
class TargetNeeds:
    """What a rule for several targets reads besides the inner products.

    Attributes:
        num_targets: Specific sets that the rule is for, M.
        norms: ``|g_k|^2`` of every domain; see `AlignmentNeeds`.
        preconditioned: As there, of every target's gradient.
        without_moments: As there.
        mixtures: As there; ``K`` is then the number of mixtures.
    """

    num_targets: int = 1
    norms: bool = False
    preconditioned: bool = False
    without_moments: Literal["refuse", "raw"] = "refuse"
    mixtures: Mixtures | None = None


@dataclass(frozen=True, eq=False)
class TargetAlignments:
    """What one probe measured against several specific sets, ``M`` of them.

    Attributes:
        dots: ``<g_k, v_m>`` of each domain's gradient with each target's, shape ``(M, K)``.
        losses: The targets' mean losses where the gradients were taken, nats per token, shape
            ``(M,)``.
        target_squared_norms: ``|v_m|^2``, shape ``(M,)``.
        squared_norms: ``|g_k|^2``, shape ``(K,)``; None if nobody asked for them.
        standard_errors: Of ``dots``, as those of `Alignments`, shape ``(M, K)``; None likewise.
            The targets share the domains' sequences, so their errors are not independent.
        direction_energies: ``direction_energy`` of each target, shape ``(M,)``; None: all are 1.
        preconditioned: Whether all directions are preconditioned.
        general_loss: As that of `Alignments`.
        step: Likewise.
        epochs: Likewise.

    Raises:
        ValueError: If the shapes contradict each other.
    """

    dots: FloatArray
    losses: FloatArray
    target_squared_norms: FloatArray
    squared_norms: FloatArray | None = None
    standard_errors: FloatArray | None = None
    direction_energies: FloatArray | None = None
    preconditioned: bool = False
    general_loss: float | None = None
    step: int | None = None
    epochs: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.dots.ndim != 2:
            raise ValueError(f"target dots: expected shape (M, K), found {self.dots.shape}")
        num_targets, num_domains = self.dots.shape
        per_target = (self.losses.shape, self.target_squared_norms.shape)
        if per_target != ((num_targets,), (num_targets,)):
            raise ValueError(
                f"target losses and norms: expected shape ({num_targets},), found {per_target}"
            )
        norms = self.squared_norms
        if norms is not None and norms.shape != (num_domains,):
            raise ValueError(f"squared_norms: expected ({num_domains},), found {norms.shape}")
        errors = self.standard_errors
        if errors is not None and errors.shape != self.dots.shape:
            raise ValueError(f"standard_errors: expected {self.dots.shape}, found {errors.shape}")

    def is_finite(self) -> bool:
        """Tell whether every number is neither infinite nor NaN."""
        optional = (self.squared_norms, self.standard_errors)
        given = (array for array in optional if array is not None)
        return _all_finite(self.dots, self.losses, self.target_squared_norms, *given)


@dataclass(frozen=True)
class LossNeeds:
    """What a rule reads of the losses of training: free, but for those of a reference model.

    Attributes:
        reference: Whether the loss of a reference model on the same sequences is read too.
        output_norms: Whether the norms of the loss's gradient at the model's output are read too.
    """

    reference: bool = False
    output_norms: bool = False


@dataclass(frozen=True, eq=False)
class DomainLosses:
    """What the steps since the last update were trained at.

    Attributes:
        losses: Mean loss of each domain's sequences, nats per token, shape ``(K,)``; 0 for a
            domain that was not drawn.
        counts: Sequences of each that were drawn, or their targets where these differ in number,
            shape ``(K,)``; 0 for a domain that was not drawn.
        step: Optimizer steps completed.
        reference_losses: Mean loss of a reference model on the same sequences, shape ``(K,)``;
            None if nobody asked for it.
        output_norms: Mean norm of the loss's gradient at the output of each domain's sequences
            (``sequence_norms``), at least 0, shape ``(K,)``; None if nobody asked for it.

    Raises:
        ValueError: If the arrays are not all of one shape ``(K,)``, or a norm is negative.
    """

    losses: FloatArray
    counts: IntArray
    step: int
    reference_losses: FloatArray | None = None
    output_norms: FloatArray | None = None

    def __post_init__(self) -> None:
        shapes = (self.losses.shape, self.counts.shape, *(each.shape for each in self._optional()))
        if self.losses.ndim != 1 or len(set(shapes)) != 1:
            found = ", ".join(map(str, shapes))
            raise ValueError(f"domain losses: expected arrays of one shape (K,), found {found}")
        if self.output_norms is not None and (self.output_norms < 0.0).any():
            raise ValueError(
                f"domain losses: expected norms of at least 0, found {self.output_norms.min()}"
            )

    def is_finite(self) -> bool:
        """Tell whether every number is neither infinite nor NaN."""
        return _all_finite(self.losses, *self._optional())

    def _optional(self) -> tuple[FloatArray, ...]:
        optional = (self.reference_losses, self.output_norms)
        return tuple(array for array in optional if array is not None)


@dataclass(frozen=True)
class StepNeeds:
    """A rule that goes by the number of the step alone."""


@dataclass(frozen=True)
class StepNumber:
    """Nothing but how far training is.

    Attributes:
        step: Optimizer steps completed.
    """

    step: int


Needs = AlignmentNeeds | TargetNeeds | LossNeeds | StepNeeds


Observed = Alignments | TargetAlignments | DomainLosses | StepNumber


@dataclass(frozen=True, eq=False)
class MixtureState:
    """All that a scheduler remembers.

    Attributes:
        weights: The instantaneous mixture alpha, a distribution of shape ``(K,)``.
        averaged_weights: Its moving average, of the same shape: what batches are sampled from.
        num_updates: Updates that were applied.
        num_skipped: Updates that were left out: a measurement was not finite or too noisy for the
            rule, or the rule was warming up or frozen.
        memory: What else the rule remembers, by the rule's own names. As much part of the state as
            the weights: it is saved, and equal on every rank.
    """

    weights: FloatArray
    averaged_weights: FloatArray
    num_updates: int
    num_skipped: int
    memory: Memory = field(default_factory=dict[str, FloatArray])


class Scheduler(Protocol):
    """A rule that moves the mixture. Equal states and observations give equal bits."""

    @property
    def observes(self) -> Needs | None:
        """What :meth:`update` needs measured; None if the mixture never moves."""
        ...

    def init(self) -> MixtureState:
        """Return the state before the first update."""
        ...

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; ``state`` stays as it is.

        Args:
            state: What :meth:`init` or the last update returned.
            observed: Of the kind that :meth:`observes` asks for: `Alignments` for
                `AlignmentNeeds`, `TargetAlignments` for `TargetNeeds`, `DomainLosses` for
                `LossNeeds`, `StepNumber` for `StepNeeds`.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``.
        """
        ...


def check_domains(name: str, found: tuple[int, ...], state: MixtureState) -> None:
    """Check that what was observed is of the domains that ``state`` is of.

    Raises:
        ValueError: If ``found`` is another shape than that of the weights, ``(K,)``.
    """
    if found != state.weights.shape:
        raise ValueError(f"{name}: expected shape {state.weights.shape}, found {found}")


def usable_losses(observed: Observed, state: MixtureState) -> DomainLosses | None:
    """Return the losses that a rule of `LossNeeds` observes.

    None: they are to be left out, as one is not finite, or there was no sequence at all.

    Args:
        observed: What the rule is given.
        state: Its state, over ``K`` domains.

    Raises:
        ValueError: If ``observed`` has another number of domains than ``state``.
    """
    assert isinstance(observed, DomainLosses)
    check_domains("domain losses", observed.losses.shape, state)
    return observed if observed.is_finite() and observed.counts.any() else None


def skip_update(state: MixtureState) -> MixtureState:
    """Return ``state`` with one more update counted as left out."""
    return replace(state, num_skipped=state.num_skipped + 1)


def _all_finite(*arrays: FloatArray) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


AVERAGE_WEIGHTS = "average_weights"
"""Name of the average in the memory of a rule that keeps one."""


def average_weights(state: MixtureState) -> FloatArray:
    """Return the mean of the instantaneous weights over all updates that were applied, ``(K,)``.

    It is what DoReMi, DoGE and GRAPE hand over to the run that follows theirs; before the first
    update, the initial mixture.

    Raises:
        ValueError: If the rule that made ``state`` keeps no average.
    """
    if AVERAGE_WEIGHTS not in state.memory:
        kept = ", ".join(state.memory) or "nothing"
        raise ValueError(
            f"memory: expected {AVERAGE_WEIGHTS}, found {kept}: this rule keeps no average"
        )
    return state.memory[AVERAGE_WEIGHTS]


def keeps_average(state: MixtureState) -> bool:
    """Tell whether the rule that made ``state`` keeps an average."""
    return AVERAGE_WEIGHTS in state.memory


def first_average(weights: FloatArray) -> Memory:
    """Return the memory of an average over no update yet."""
    return {AVERAGE_WEIGHTS: weights.copy()}


def next_average(state: MixtureState, weights: FloatArray) -> Memory:
    """Return the memory after one more update, which led from ``state`` to ``weights``."""
    average = state.memory[AVERAGE_WEIGHTS]
    return {AVERAGE_WEIGHTS: average + (weights - average) / (state.num_updates + 1)}
