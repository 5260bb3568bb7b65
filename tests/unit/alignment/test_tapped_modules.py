"""Taps on modules that do something unusual, a sequence at a time."""

import pytest
import torch
from torch import Tensor, nn

from megadga.alignment.directions import ResidentDirection
from megadga.alignment.taps import tapped
from megadga.errors import UnsupportedEngineError
from tests.support.derivatives import assert_along, filled, normal, pieces_of
from tests.support.tapping import CPU, of_outputs


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


class Positions(nn.Module):
    """Looks places up, for all sequences at once or for each."""

    def __init__(self, ids: Tensor, *, by_name: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.ids = ids
        self.by_name = by_name

    def forward(self, x: Tensor) -> Tensor:
        places = self.table(input=self.ids) if self.by_name else self.table(self.ids)
        return (x * places).sin()


@pytest.mark.parametrize("num_sequences", [1, 3, 5])  # the last: as many as positions
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("shape", ["(S,)", "(1, S)", "(B, S)"])
def test_positions_may_be_looked_up_once_for_all(shape: str, num_sequences: int, *, by_name: bool):
    ids = {
        "(S,)": torch.arange(5),
        "(1, S)": torch.arange(5)[None],
        "(B, S)": torch.arange(5).expand(num_sequences, 5),
    }[shape]
    module = filled(Positions(ids, by_name=by_name))
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


def test_an_output_without_a_batch_axis_is_refused_by_the_name_of_its_module():
    module = Flat()
    direction = ResidentDirection({p: torch.ones_like(p) for p in module.parameters()})
    with tapped(module, direction) as taps:
        taps.begin(3, CPU)
        with pytest.raises(UnsupportedEngineError, match=r"module 'inner\.0': expected") as e:
            module(torch.ones(3, 5, 4))
    assert "the 3 sequences" in str(e.value)
    assert "found shape (15, 4)" in str(e.value)


def test_without_gradients_no_output_is_refused():
    module = Flat()
    direction = ResidentDirection({p: torch.ones_like(p) for p in module.parameters()})
    with tapped(module, direction) as taps, torch.no_grad():
        taps.begin(3, CPU)
        assert module(torch.ones(3, 5, 4)).shape == (3, 5, 4)
