"""Small language models that do what ours do not: each is one thing that users' modules do."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY

WIDTH = 12


class Foreign(nn.Module):
    """An embedding, whatever is in between, and a head: one loss per token.

    Args:
        block: From hidden states ``(b, S, WIDTH)`` to others.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(SEQUENCE_LENGTH, WIDTH)
        self.block = block
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def logits(self, tokens: Tensor) -> Tensor:
        inputs = tokens[:, :-1]
        places = torch.arange(inputs.shape[1], device=tokens.device)
        h = self.embedding(inputs) + self.position(places)
        return self.head(h + self.block(h)).float()

    def forward(self, tokens: Tensor) -> Any:
        losses = F.cross_entropy(
            self.logits(tokens).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        return losses.view(tokens.shape[0], -1)


class Gated(nn.Module):
    """Has a parameter of its own ahead of a module that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))
        self.projection = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        return self.projection(self.gain * torch.tanh(h))


class Experts(Foreign):
    """Calls an expert only if a sequence of the micro-batch begins with one of its tokens."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8)))

    def logits(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens[:, :-1])
        chosen = (tokens[:, :1] % 8)[..., None]
        out = h
        for index, expert in enumerate(self.block.children()):
            if bool((of_expert := chosen == index).any()):
                out = out + expert(h) * of_expert
        return self.head(out)


class Moving(nn.Module):
    """Has running statistics, counts its calls, and draws from every generator that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("calls", torch.zeros(()))
        self.generator = torch.Generator()

    def forward(self, h: Tensor) -> Tensor:
        self.calls = self.calls + 1  # another tensor each time
        noise = torch.rand((), generator=self.generator).item() + torch.rand(()).item()
        noise += random.random() + np.random.random()  # noqa: NPY002
        normal = self.norm(h.transpose(1, 2)).transpose(1, 2)
        return normal * (self.scale * (1.0 + (0.01 * noise if self.training else 0.0)))


class Unlike(nn.Module):
    """Mixes the sequences of a micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        return self.projection(h - h.mean(dim=0, keepdim=True))


class Unseen(nn.Module):
    """Uses a child's parameters without calling it, those of one that it calls as well."""

    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        return self.called(h) + 0.3 * F.linear(torch.tanh(h), self.called.weight)


class Unrepeatable(nn.Module):
    """Has a parameter of its own, and cannot be called again by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, h: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not h.requires_grad:
            raise KeyError("saved")  # as those that look for what a first pass has left do
        return self.gain * h


class Masking(Foreign):
    """Leaves out two targets of three, and says so in one of several ways.

    Args:
        returns: ``mean``, of the counted; ``by hand``, the same without an ``ignore_index``;
            ``mask``, ``sums`` of each sequence, or ``sum`` of all, with what is counted.
    """

    def __init__(self, returns: str) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH))
        self.returns = returns

    def forward(self, tokens: Tensor) -> Any:
        counted = tokens[:, 1:] % 3 == 0
        if self.returns == "mean":
            targets = tokens[:, 1:].masked_fill(~counted, -100)
            return F.cross_entropy(self.logits(tokens).flatten(0, 1), targets.flatten())
        losses = super().forward(tokens)
        kept = losses * counted
        return {
            "by hand": lambda: kept.sum() / counted.sum(),
            "mask": lambda: (losses, counted),
            "sums": lambda: (kept.sum(1), counted.sum(1)),
            "sum": lambda: (kept.sum(), counted.sum()),
        }[self.returns]()


class Scalar(Foreign):
    """Returns the mean loss."""

    def forward(self, tokens: Tensor) -> Any:
        return super().forward(tokens).mean()


class Logits(Foreign):
    """Returns logits, for whoever takes the loss."""

    def forward(self, tokens: Tensor) -> Any:
        return self.logits(tokens)


def loss_of_logits(module: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(module(tokens).flatten(0, 1), tokens[:, 1:].flatten())
