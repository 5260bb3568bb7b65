"""The loss of every token, from a decoder's scores."""

# ruff: noqa: N803 (shape suffixes are capitals)

import torch
from torch import Tensor
from torch.nn import functional

from megadga.data.targets import PADDING


def next_token_losses(logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
    """Return the cross-entropy of each next token in nats.

    Args:
        logits_BSV: Scores of every next token, shape ``(b, S, V)``.
        targets_BS: Ids, or ``PADDING`` where no loss is taken (see ``inputs_and_targets``).

    Returns:
        Losses, float32 or the scores' higher precision, shape ``(b, S)``; 0 without a target.
    """
    precise = torch.promote_types(logits_BSV.dtype, torch.float32)
    losses = functional.cross_entropy(
        logits_BSV.flatten(0, 1).to(precise),
        targets_BS.flatten(),
        ignore_index=PADDING,
        reduction="none",
    )
    return losses.view_as(targets_BS)
