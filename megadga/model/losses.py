"""From the tokens of sequences to what a model reads, predicts, and the loss of every token.

Every module that is given megadga's tokens goes through here: they may hold padding, and ids that
are marked as inputs alone (``megadga.data.targets``).
"""

# ruff: noqa: N803, N806 (shape suffixes are capitals)

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from megadga.data.targets import INPUT_ONLY, PADDING
from megadga.model.compiling import compiled

_BLOCK_ON_CPU = 1 << 20
"""Scores that are gone through at a time: tensors of 4 MB, which the allocator and caches keep."""
_BLOCK = 1 << 24
"""The same on accelerators, where each block costs the launch of kernels."""


def inputs_and_targets(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a model reads, and what it is to predict.

    Args:
        tokens: Shape ``(b, S + 1)``; ids, ``PADDING`` at the end of a sequence, and ids marked as
            inputs alone.

    Returns:
        Inputs, shape ``(b, S)``: ids from 0 on, 0 in place of padding, which no target follows.
        Targets, shape ``(b, S)``: ids, or ``PADDING`` where no loss is taken, which is -100, what
        ``cross_entropy`` ignores by default.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    ids = torch.where(inputs <= INPUT_ONLY, INPUT_ONLY - inputs, inputs).clamp(min=0)
    return ids, targets.masked_fill(targets < 0, PADDING)


def target_mask(tokens: Tensor) -> Tensor:
    """Return which places a loss is taken at, from tokens ``(b, S + 1)``; shape ``(b, S)``."""
    return tokens[:, 1:] >= 0


class Decoder(nn.Module, ABC):
    """A causal language model whose forward pass returns the loss of every token."""

    overwrites_scores: ClassVar[bool] = False
    """Whether the loss may overwrite what ``logits`` returns: nothing else needs it, not even the
    backward pass of what has computed it."""

    loss_kernels: "LossKernels | None" = None
    """What takes the losses of scores in the place of torch's operations; None: those do."""

    @abstractmethod
    def logits(self, tokens_BS: Tensor) -> Tensor:
        """Return the scores of every next token: ``(b, S)`` ids to ``(b, S, V)``."""

    @overload
    def forward(self, tokens_BT: Tensor, *, with_norms: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(
        self, tokens_BT: Tensor, *, with_norms: bool
    ) -> Tensor | tuple[Tensor, Tensor]: ...
    def forward(
        self, tokens_BT: Tensor, *, with_norms: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the cross-entropy of each next token in nats.

        Padding has no effect on other tokens: it is at the end of sequences, and attention is
        causal.

        Args:
            tokens_BT: Windows of token ids, ``PADDING`` at their ends, or ids marked as inputs
                alone (see ``inputs_and_targets``), shape ``(b, S + 1)``.
            with_norms: Whether norms of the losses' gradients at the scores are returned, too.

        Returns:
            Losses, float32, shape ``(b, S)``; 0 where there is no target. With norms: these beside
            them (see ``losses_and_norms``).
        """
        inputs_BS, targets_BS = inputs_and_targets(tokens_BT)
        logits_BSV, overwrite = self.logits(inputs_BS), self.overwrites_scores
        if with_norms:
            return losses_and_norms(logits_BSV, targets_BS, overwrite=overwrite)
        return next_token_losses(
            logits_BSV, targets_BS, overwrite=overwrite, kernels=self.loss_kernels
        )


def losses_and_norms(
    logits_BSV: Tensor, targets_BS: Tensor, *, overwrite: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each next token in nats, and how long its gradient is.

    Of the gradient by the token's own scores, ``softmax - onehot(target)``, the Euclidean norm, in
    ``[0, sqrt(2))``: as precise relative to itself as the dtype, also where the target is all but
    certain. It takes the log-probabilities of the scores once more, of a block at a time, and no
    backward pass.

    Args:
        logits_BSV: As of ``next_token_losses``.
        targets_BS: Likewise.
        overwrite: Likewise.

    Returns:
        Losses, and norms without a gradient, both as the losses of ``next_token_losses``, to the
        bit, are: of their shape and dtype, 0 without a target.
    """
    logits_NV, targets_N = logits_BSV.flatten(0, 1), targets_BS.flatten()
    with torch.no_grad():  # before the losses, which may take the place of the scores
        norms_N = torch.cat(
            [
                _gradient_norms(
                    logits_NV[rows].to(_precise(logits_NV)).log_softmax(-1), targets_N[rows]
                )
                for rows in _blocks(logits_NV)
            ]
        )
    losses_BS = next_token_losses(logits_BSV, targets_BS, overwrite=overwrite)
    return losses_BS, norms_N.view_as(targets_BS)


def _gradient_norms(log_probabilities_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return ``|softmax - onehot(target)|`` of each row, in whose place it is computed.

    0 without a target.
    """
    columns_N1 = targets_N.clamp(min=0)[:, None]
    missing_N1 = -log_probabilities_NV.gather(1, columns_N1).expm1()  # 1 - p of the target
    others_NV = log_probabilities_NV.exp_().scatter_(1, columns_N1, missing_N1)
    norms_N: Tensor = cast("Any", torch.linalg).vector_norm(others_NV, dim=-1)
    return norms_N.masked_fill_(targets_N == PADDING, 0.0)


def sequence_norms(norms_BS: Tensor, targets_BS: Tensor) -> Tensor:
    """Return the root mean square of each sequence's norms over its targets, shape ``(b,)``.

    Times ``1 / sqrt(T)`` it is the norm of the gradient of the mean loss over the sequence's ``T``
    targets, by all its scores.

    Args:
        norms_BS: Of ``losses_and_norms``.
        targets_BS: Where there are targets, true or at least 0; at least one in each sequence.
    """
    found_BS = targets_BS if targets_BS.dtype == torch.bool else targets_BS >= 0
    return (norms_BS.square().sum(dim=-1) / found_BS.sum(dim=-1)).sqrt()


def next_token_losses(
    logits_BSV: Tensor,
    targets_BS: Tensor,
    *,
    overwrite: bool = False,
    kernels: "LossKernels | None" = None,
) -> Tensor:
    """Return the cross-entropy of each next token in nats.

    Losses and gradients have the bits of ``functional.cross_entropy``, which takes more time and
    memory; with kernels they agree up to rounding. They can be differentiated once.

    Memory of the scores' size, beside the scores: with ``overwrite`` none. Without it, one tensor
    of float32 from the forward pass on, or of a lower precision in the backward pass.

    Args:
        logits_BSV: Scores of every next token, shape ``(b, S, V)``.
        targets_BS: Ids, or ``PADDING`` where no loss is taken (see ``inputs_and_targets``).
        overwrite: Whether nobody else needs the scores: log-probabilities or gradients take their
            place.
        kernels: What computes them in fewer passes over the scores.

    Returns:
        Losses, float32 or the scores' higher precision, shape ``(b, S)``; 0 without a target.
    """
    logits_NV, targets_N = logits_BSV.flatten(0, 1), targets_BS.flatten()
    if torch.compiler.is_compiling():  # which fuses it by itself
        losses_N = functional.cross_entropy(
            logits_NV.to(_precise(logits_NV)), targets_N, ignore_index=PADDING, reduction="none"
        )
    elif kernels is not None:
        losses_N = cast("Any", _CompiledCrossEntropy).apply(
            logits_NV, targets_N, overwrite, kernels
        )
    else:
        losses_N = cast("Any", _CrossEntropy).apply(logits_NV, targets_N, overwrite)
    return losses_N.view_as(targets_BS)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of rows of scores, with few tensors of the scores' size.

    torch differentiates it by way of the gradient of the log-probabilities, ``(N, V)`` zeros but
    for one number a row. Here that exists for some rows at a time, and the gradient of the scores
    takes the place of the log-probabilities: a second backward pass through the same graph is an
    error. Of scores in a lower precision no log-probabilities are kept: they are computed again.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, overwrite: bool) -> Tensor:
        """Return the loss of each row, shape ``(N,)``."""
        precise = _precise(logits_NV)
        ctx.overwrite = overwrite or logits_NV.dtype == precise
        if logits_NV.dtype == precise and not overwrite:
            kept_NV = logits_NV.log_softmax(-1)
            losses_N = _picked(kept_NV, targets_N)
        else:
            kept_NV = logits_NV
            parts: list[Tensor] = []
            for rows in _blocks(logits_NV):
                of_rows = logits_NV[rows].to(precise).log_softmax(-1)
                parts.append(_picked(of_rows, targets_N[rows]))
                if logits_NV.dtype == precise:
                    kept_NV[rows] = of_rows
            losses_N = torch.cat(parts)
        ctx.save_for_backward(kept_NV, targets_N)
        return losses_N

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_N: Tensor
    ) -> tuple[Tensor, None, None]:
        """Return the gradient of the scores, shape and dtype as theirs."""
        kept_NV, targets_N = ctx.saved_tensors
        precise = _precise(kept_NV)
        columns_N1 = targets_N.clamp(min=0)[:, None]
        picked_N1 = torch.where(targets_N == PADDING, 0.0, -gradient_N)[:, None]
        result_NV = kept_NV if ctx.overwrite else torch.empty_like(kept_NV)
        zeros: Tensor | None = None
        for rows in _blocks(kept_NV):
            part, columns = kept_NV[rows], columns_N1[rows]
            if part.dtype != precise:
                part = part.to(precise).log_softmax(-1)
            if zeros is None:
                zeros = torch.zeros_like(part)
            of_log = zeros[: len(part)].scatter_(1, columns, picked_N1[rows])
            result_NV[rows] = torch.ops.aten._log_softmax_backward_data(  # noqa: SLF001
                of_log, part, 1, precise
            )
            of_log.scatter_(1, columns, 0.0)
        return result_NV, None, None


@dataclass(frozen=True)
class LossKernels:
    """Compiled losses of rows of scores, and their gradient: each reads the scores once.

    Attributes:
        losses: From scores ``(N, V)`` and targets ``(N,)`` to losses and log-normalizers, each
            ``(N,)``.
        write_gradient: Writes the gradient of the scores to its first argument, shape ``(N, V)``,
            from the scores (possibly the same tensor), log-normalizers, targets, and the gradient
            of the losses.
    """

    losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    write_gradient: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]

    @classmethod
    def compiled(cls, *, backend: str = "inductor") -> "LossKernels":
        """Return what is compiled when it is first called, for each shape apart.

        Args:
            backend: Of ``torch.compile``.
        """
        return cls(
            compiled(_losses_and_normalizers, backend=backend),
            compiled(_write_gradient, backend=backend),
        )


def _losses_and_normalizers(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    precise_NV = logits_NV.to(_precise(logits_NV))
    normalizers_N = precise_NV.logsumexp(-1)
    found_N = precise_NV.gather(1, targets_N.clamp(min=0)[:, None])[:, 0]
    losses_N = torch.where(targets_N == PADDING, 0.0, normalizers_N - found_N)
    return losses_N, normalizers_N


def _write_gradient(
    result_NV: Tensor,
    logits_NV: Tensor,
    normalizers_N: Tensor,
    targets_N: Tensor,
    gradient_N: Tensor,
) -> None:
    precise_NV = logits_NV.to(normalizers_N.dtype)
    probabilities_NV = (precise_NV - normalizers_N[:, None]).exp()
    ids_V = torch.arange(logits_NV.shape[1], device=logits_NV.device)
    hits_NV = (ids_V == targets_N[:, None]).to(probabilities_NV.dtype)
    scale_N = torch.where(targets_N == PADDING, 0.0, gradient_N)
    result_NV.copy_((probabilities_NV - hits_NV) * scale_N[:, None])


class _CompiledCrossEntropy(torch.autograd.Function):
    """Cross-entropy of rows of scores by kernels that keep nothing of the scores' size."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N: Tensor, overwrite: bool, kernels: LossKernels
    ) -> Tensor:
        """Return the loss of each row, shape ``(N,)``."""
        losses_N, normalizers_N = kernels.losses(logits_NV, targets_N)
        ctx.save_for_backward(logits_NV, normalizers_N, targets_N)
        ctx.overwrite, ctx.write_gradient = overwrite, kernels.write_gradient
        return losses_N

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_N: Tensor
    ) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the scores, shape and dtype as theirs."""
        logits_NV, normalizers_N, targets_N = ctx.saved_tensors
        result_NV = logits_NV if ctx.overwrite else torch.empty_like(logits_NV)
        ctx.write_gradient(result_NV, logits_NV, normalizers_N, targets_N, gradient_N)
        return result_NV, None, None, None


def _precise(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _picked(log_probabilities_NV: Tensor, targets_N: Tensor) -> Tensor:
    return functional.nll_loss(
        log_probabilities_NV, targets_N, ignore_index=PADDING, reduction="none"
    )


def _blocks(logits_NV: Tensor) -> Iterator[slice]:
    """Yield the rows of each block."""
    size = _BLOCK_ON_CPU if logits_NV.device.type == "cpu" else _BLOCK
    num_rows = max(1, size // logits_NV.shape[1])
    for begin in range(0, len(logits_NV), num_rows):
        yield slice(begin, begin + num_rows)
