"""From the tokens of sequences to what a model reads and what its loss is taken on.

Every module that is given megadga's tokens goes through here: they may hold padding, and ids that
are marked as inputs alone (``megadga.data.targets``).
"""

import torch
from torch import Tensor

from megadga.data.targets import INPUT_ONLY, PADDING


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
