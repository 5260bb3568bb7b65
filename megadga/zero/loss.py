"""From a module and tokens to the loss that gradients are taken of. Knows no engine."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from megadga.shards.sequences import PADDING

Loss = Callable[[nn.Module, Tensor], Tensor]
"""From a module and tokens ``(b, S + 1)`` to the mean loss over the targets that are not padding,
a scalar in nats a token."""


def mean_loss(module: nn.Module, tokens: Tensor) -> Tensor:
    """Return a module's mean loss over the targets that are not padding.

    Args:
        module: Returns that mean itself, a scalar, as ``cross_entropy`` does by default; or one
            loss a token, shape ``(b, S)``.
        tokens: Shape ``(b, S + 1)``.

    Raises:
        ValueError: If the module returns something else.
    """
    losses: Tensor = module(tokens)
    if losses.ndim == 0:
        return losses
    padding = tokens[:, 1:] == PADDING
    if losses.shape != padding.shape:
        raise ValueError(
            f"module: expected a scalar loss or one loss a token, shape {tuple(padding.shape)}, "
            f"found shape {tuple(losses.shape)}"
        )
    precise = losses.to(torch.promote_types(losses.dtype, torch.float32))
    return precise.masked_fill(padding, 0.0).sum() / (~padding).sum()


def causal_lm_loss(module: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean loss of a causal language model of Hugging Face's ``transformers``.

    Padding changes nothing: it follows all tokens of its sequence, where attention does not look.

    Args:
        module: Called with ``input_ids`` and ``use_cache``, returns an object with ``logits`` of
            shape ``(b, S, V)``.
        tokens: Shape ``(b, S + 1)``.
    """
    outputs: Any = module(input_ids=tokens[:, :-1].clamp(min=0), use_cache=False)
    logits: Tensor = outputs.logits
    precise = torch.promote_types(logits.dtype, torch.float32)
    return functional.cross_entropy(
        logits.flatten(0, 1).to(precise), tokens[:, 1:].flatten(), ignore_index=PADDING
    )
