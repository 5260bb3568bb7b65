"""A small language model with every kind of parameter a probe must handle."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from megadga.model.losses import inputs_and_targets


class SmallDecoder(nn.Module):
    """Embedding tied to the output, position embedding, norms, biases, a frozen and an unused one.

    Args:
        vocabulary: Number of token ids.
        sequence_length: ``S``.
        scalar: Return the mean loss over the targets that are no padding, instead of one per
            token.
        dropout: Probability of dropping an activation.
        tied_in_sight: Multiply by the tied matrix in a module that owns it, instead of in passing.
    """

    def __init__(
        self,
        vocabulary: int,
        sequence_length: int,
        *,
        scalar: bool = False,
        dropout: float = 0.0,
        tied_in_sight: bool = True,
    ) -> None:
        super().__init__()
        width = 17  # odd on purpose: parts of a parameter need padding on any number of ranks
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(sequence_length, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.frozen = nn.Linear(width, width)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.scalar = scalar
        self.head = nn.Linear(width, vocabulary, bias=False) if tied_in_sight else None
        if self.head is not None:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, targets = inputs_and_targets(tokens)
        places = torch.arange(inputs.shape[1], device=tokens.device)
        h = self.embedding(inputs) + self.position(places)
        ahead = torch.ones(len(places), len(places), dtype=torch.bool, device=h.device).triu(1)
        n = self.norm(h)
        h = h + self.attention(n, n, n, attn_mask=ahead, need_weights=False)[0]
        h = h + self.down(F.silu(self.dropout(self.up(h)))) + 0.1 * self.frozen(h)
        logits = self.head(h) if self.head else F.linear(h, self.embedding.weight)
        losses = F.cross_entropy(
            logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)),
            targets.flatten(),
            reduction="mean" if self.scalar else "none",
        )
        return losses if self.scalar else losses.view_as(targets)
