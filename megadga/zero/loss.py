"""From a module and tokens to the loss that gradients are taken of. Knows no engine."""

from collections.abc import Callable, Mapping
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
            loss a token, shape ``(b, S)``; or an object whose ``loss`` is one of these, such as a
            ``ModelOutput`` of Hugging Face's ``transformers``.
        tokens: Shape ``(b, S + 1)``.

    Raises:
        ValueError: If the module returns something else.
    """
    losses = loss_tensor(module(tokens), "module")
    if losses.ndim == 0:
        return losses
    padding = tokens[:, 1:] == PADDING
    if losses.shape != padding.shape:
        raise ValueError(
            f"module: expected a scalar loss or one loss a token, shape {tuple(padding.shape)}, "
            f"found shape {tuple(losses.shape)}"
        )
    return losses.masked_fill(padding, 0.0).sum() / (~padding).sum()


def loss_tensor(returned: Any, what: str) -> Tensor:
    """Return a loss as a tensor: what was returned, or its ``loss``.

    Args:
        returned: By a module or a loss function.
        what: Which of these; for the message.

    Raises:
        ValueError: If there is no tensor in it to be the loss.
    """
    if isinstance(returned, Tensor):
        return returned
    found = returned.get("loss") if isinstance(returned, Mapping) else None
    found = getattr(returned, "loss", found)
    if isinstance(found, Tensor):
        return found
    kind = type(returned).__name__
    described = f"a {kind} of {len(returned)}" if isinstance(returned, tuple) else f"a {kind}"
    if hasattr(returned, "loss") or isinstance(returned, Mapping):
        described += " without one (is it called without labels?)"
    raise ValueError(
        f"{what}: expected a tensor of losses, or an object with one as its loss, found "
        f"{described}"
    )


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
