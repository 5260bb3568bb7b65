"""Rows that are chosen and reordered, followed to the modules that see them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from megadga.probes.gradients import ResidentDirection
from megadga.probes.routing import SequenceTracker
from megadga.probes.sequence_rows import SequenceRows
from tests.support.derivatives import assert_along, filled, normal, pieces_of
from tests.support.hooking import alone, derivatives, layouts_of, of_outputs, tokens_of
from tests.support.shards import VOCABULARY

S, WIDTH, EXPERTS, CHOSEN = 5, 4, 4, 2


class Norm(nn.Module):
    """A norm of no class that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        precise = x.to(torch.float64)
        scale = torch.rsqrt(precise.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (precise * scale).to(x.dtype)


class Expert(nn.Module):
    """Gated, with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(self.norm(x)).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class Routed(nn.Module):
    """Experts that are modules, each of which is called with its own tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        flat = h.view(-1, WIDTH)
        shares, chosen = self.gate(flat).softmax(-1).topk(CHOSEN)
        return (h + self.route(flat, shares, chosen).view_as(h)).square()

    def route(self, flat: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """As Mixtral did: the tokens of each expert, and a sum into their places."""
        routed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            place, token = torch.where((chosen == number).T)
            found = expert(flat[None, token].reshape(-1, WIDTH)) * shares[token, place, None]
            routed.index_add_(0, token, found)
        return routed


class ByMask(Routed):
    """As DeepSeek's first models did in training: every token once for each of its experts."""

    def route(self, flat: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        repeated, numbers = flat.repeat_interleave(CHOSEN, dim=0), chosen.flatten()
        routed = torch.zeros_like(repeated)
        for number, expert in enumerate(self.experts):
            routed[numbers == number] = expert(repeated[numbers == number])
        return (routed.view(*shares.shape, -1) * shares[..., None]).sum(1)


class Sorted(Routed):
    """All tokens in the order of their experts, cut into one stretch for each."""

    def route(self, flat: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        order = chosen.flatten().argsort()
        counts = chosen.flatten().bincount(minlength=EXPERTS).tolist()
        stretches = flat.index_select(0, order // CHOSEN).split(counts)
        found = [expert(rows) for expert, rows in zip(self.experts, stretches, strict=True)]
        back = torch.cat(found)[order.argsort()].view(*shares.shape, -1)
        return (back * shares[..., None]).sum(1)


class OfFewTokens(Routed):
    """Drops all tokens but some, a number for each sequence that depends on it."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        kept = h.detach()[..., 0] > 0.0
        kept[:, 0] = True
        rows = h[kept]
        shares, chosen = self.gate(rows).softmax(-1).topk(CHOSEN)
        return torch.zeros_like(h).masked_scatter(
            kept[..., None], self.route(rows, shares, chosen)
        )


@pytest.mark.parametrize("num_sequences", [1, 2, 3])
@pytest.mark.parametrize("build", [Routed, ByMask, Sorted, OfFewTokens])
def test_every_sequence_is_followed_to_its_experts(build: type[nn.Module], num_sequences: int):
    module = filled(build())
    pieces, x = pieces_of(module), normal(num_sequences, S, WIDTH)
    assert layouts_of(module, normal(2, S, WIDTH)).unknown  # or there is nothing to follow

    found = of_outputs(module, ResidentDirection(pieces), x)

    assert_along(found, [module(each[None]).sum() for each in x], pieces)


class WithoutPadding(nn.Module):
    """Looks up nothing but the tokens that are no padding, in one row with their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        kept = targets >= 0
        places = kept.cumsum(1) - 1
        row = self.tokens(inputs[kept]) * places[kept, None].cos()
        found = functional.cross_entropy(self.head(row), targets[kept], reduction="none")
        return torch.zeros(kept.shape, dtype=found.dtype).masked_scatter(kept, found)


def test_tokens_that_are_no_padding_are_followed_through_one_row():
    module = filled(WithoutPadding())
    pieces, tokens = pieces_of(module), tokens_of(3)
    tokens[0, 4:], tokens[2, 7:] = -100, -100
    counts = (tokens[:, 1:] >= 0).sum(1)

    found = derivatives(module, ResidentDirection(pieces), tokens)

    # The mean is over all targets; a sequence's own mean is over its own.
    found = found / len(tokens) * counts.sum() / counts
    assert_along(found, alone(module, tokens), pieces)


ROWS = torch.arange(24.0, dtype=torch.float64).view(6, 4)
NUMBERS = torch.tensor([0, 0, 1, 1, 2, 2])

FOLLOWED: list[tuple[Callable[[Tensor], Tensor], list[int]]] = [
    (lambda x: x[[5, 0]], [2, 0]),
    (lambda x: x[x[:, 0] > 5.0], [1, 1, 2, 2]),
    (lambda x: x.view(3, 2, 4)[:, 1], [0, 1, 2]),
    (lambda x: x.unflatten(0, (3, 2)).flatten(0, 1)[1:3], [0, 1]),
    (lambda x: torch.cat([x[4:], x[:1]]), [2, 2, 0]),
    (lambda x: x.split([1, 5])[1], [0, 1, 1, 2, 2]),
    (lambda x: x.chunk(2, dim=-1)[0].relu() * 2.0, [0, 0, 1, 1, 2, 2]),
    (lambda x: x + x.flip(0).flip(0), [0, 0, 1, 1, 2, 2]),
    (lambda x: x.repeat_interleave(2, dim=0)[3:5], [0, 1]),
]

LOST: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.T,
    lambda x: x.sum(0, keepdim=True).expand(6, 4),
    lambda x: x + x.flip(0),  # of two sequences each
    lambda x: x.view(4, 6),
    lambda x: x.cumsum(0),
    lambda x: x.t().contiguous().view(6, 4),
    lambda x: torch.ones(6, 6, dtype=torch.float64) @ x,
    lambda x: x[..., [3, 2, 1, 0]],
    lambda x: x.clone().index_add_(0, torch.tensor([5]), x[:1]),
    lambda x: torch.stack([x, x]),
]


@pytest.mark.parametrize(("function", "expected"), FOLLOWED)
def test_rows_that_are_chosen_keep_their_sequence(
    function: Callable[[Tensor], Tensor], expected: list[int]
):
    with SequenceTracker() as following:
        following.begin(None)
        rows = ROWS.clone()
        following.follow(rows, SequenceRows(3, numbers=NUMBERS))
        found = following.rows(function(rows), 2, 3)
    assert found is not None
    assert found.numbers is not None
    assert found.numbers.tolist() == expected


@pytest.mark.parametrize("function", LOST)
def test_rows_that_are_mixed_have_none(function: Callable[[Tensor], Tensor]):
    with SequenceTracker() as following:
        following.begin(None)
        rows = ROWS.clone()
        following.follow(rows, SequenceRows(3, numbers=NUMBERS))
        assert following.rows(function(rows), 2, 3) is None


def test_rows_that_were_overwritten_have_none():
    with SequenceTracker() as following:
        following.begin(None)
        rows = ROWS.clone()
        following.follow(rows, SequenceRows(3, numbers=NUMBERS))
        rows[0] = rows[5]
        assert following.rows(rows, 2, 3) is None
