"""Hooks on modules that do something unusual, a sequence at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from megadga.probes.gradients import ResidentDirection
from tests.support.derivatives import assert_along, filled, normal, pieces_of
from tests.support.hooking import of_outputs


class Twice(nn.Module):
    """Goes through one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).sin()).square()


class InPlace(nn.Module):
    """Writes into what its layers return."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        h += x
        y = self.layer(h)
        y *= 2.0
        return torch.sigmoid_(y).square()


class Owner(nn.Module):
    """Has a parameter of its own, children that have some too, and dropout among them."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.empty(4))
        self.dropout = nn.Dropout(0.5)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(self.before(x).sin()) * self.scale
        return self.attention(h, h, h)[0].square()


class Named(nn.Module):
    """Calls its children by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.RMSNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x=self.layer(input=x)).pow(3)


@pytest.mark.parametrize("build", [Twice, InPlace, Owner, Named])
def test_sequences_of_a_module_that_does_something_unusual(build: type[nn.Module]):
    module = filled(build())
    pieces, x = pieces_of(module), normal(3, 5, 4)
    torch.manual_seed(7)  # of dropout
    losses = module(x).flatten(1).sum(1)

    torch.manual_seed(7)
    found = of_outputs(module, ResidentDirection(pieces), x)

    assert_along(found, list(losses), pieces)


POSITIONS: dict[str, Callable[[nn.Embedding, Tensor], Tensor]] = {
    "(S,)": lambda table, _: table(torch.arange(5)),
    "(S,), by name": lambda table, _: table(input=torch.arange(5)),
    "(1, S)": lambda table, _: table(torch.arange(5)[None]),
    "(1, S), repeated": lambda table, x: table(torch.arange(5)[None]).expand(len(x), -1, -1),
    "(B, S)": lambda table, x: table(torch.arange(5).expand(len(x), 5)),
    "(S,), halved": lambda table, _: (table(torch.arange(5)) * 0.5).to(torch.float64),
}


class Positions(nn.Module):
    """Looks places up, for all sequences at once or for each."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return (x * POSITIONS[self.kind](self.table, x)).sin()


@pytest.mark.parametrize("num_sequences", [1, 2, 3, 5])  # the last: as many as positions
@pytest.mark.parametrize("kind", POSITIONS)
def test_positions_may_be_looked_up_once_for_all(kind: str, num_sequences: int):
    module = filled(Positions(kind))
    pieces, x = pieces_of(module), normal(num_sequences, 5, 4)

    found = of_outputs(module, ResidentDirection(pieces), x)

    assert_along(found, list(module(x).flatten(1).sum(1)), pieces)


class Flat(nn.Module):
    """Forgets which sequence a token is from."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, 1)).view_as(x)
