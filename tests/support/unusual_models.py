"""Language models in whose modules a sequence is not a row of the first axis."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

WIDTH = 12


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).to(torch.promote_types(logits.dtype, torch.float32)),
        targets.flatten(),
        reduction="none",
    )
    return losses.view_as(targets)


class PackedRow(nn.Module):
    """All sequences in one row, as training without padding has them: ``(1, B S)``.

    Args:
        vocabulary: Number of token ids.
        sequence_length: ``S``.
    """

    def __init__(self, vocabulary: int, sequence_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Embedding(sequence_length, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1].clamp(min=0), tokens[:, 1:]
        sequence = torch.arange(len(tokens)).repeat_interleave(inputs.shape[1])
        places = torch.arange(inputs.shape[1]).repeat(len(tokens))
        row = self.embedding(inputs.reshape(1, -1)) + self.position(places[None])
        query, key, value = self.project(self.norm(row)).chunk(3, -1)
        own = (sequence[:, None] == sequence[None]) & (places[:, None] >= places[None])
        row = row + F.scaled_dot_product_attention(query, key, value, own)
        return _losses(self.head(row), targets)


class Routed(nn.Module):
    """Experts that are modules, each of which is called with the tokens that chose it.

    Args:
        vocabulary: Number of token ids.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.gate = nn.Linear(WIDTH, 3, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 20), nn.SiLU(), nn.Linear(20, WIDTH)) for _ in range(3)
        )
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1].clamp(min=0), tokens[:, 1:]
        h = self.embedding(inputs)
        flat = h.view(-1, WIDTH)
        share, chosen = self.gate(flat).softmax(-1).max(-1)
        routed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            (token,) = torch.where(chosen == number)
            routed = routed.index_add(0, token, expert(flat[token]) * share[token, None])
        return _losses(self.head((h + routed.view_as(h)).tanh()), targets)


class OutOfSight(nn.Module):
    """What no micro-batch is told apart in, and each of which has stopped a measurement once.

    Positions to which the caller adds an axis, a layer under the old ``weight_norm``, a module
    that returns its own parameter, a gain in a dictionary of parameters, and something that is
    looked up once per sequence.

    Args:
        vocabulary: Number of token ids.
        sequence_length: ``S``.
    """

    def __init__(self, vocabulary: int, sequence_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Embedding(sequence_length, WIDTH)
        self.first = nn.Embedding(vocabulary, WIDTH)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.up = nn.utils.weight_norm(nn.Linear(WIDTH, 20))
        self.down = nn.Linear(20, WIDTH)
        self.matrix = Returned()
        self.gains = nn.ParameterDict({"gain": nn.Parameter(torch.ones(WIDTH))})
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1].clamp(min=0), tokens[:, 1:]
        h = self.embedding(inputs) + self.position(torch.arange(inputs.shape[1]))[None]
        h = h + self.first(inputs[:, 0])[:, None]
        h = h + F.linear(self.down(F.silu(self.up(h))), self.matrix())
        return _losses(self.head(h * self.gains["gain"]), targets)


class Returned(nn.Module):
    """Returns its parameter as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.eye(WIDTH))

    def forward(self) -> Tensor:
        return self.value
