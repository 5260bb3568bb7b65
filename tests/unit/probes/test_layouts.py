"""Where sequences lie in the outputs of modules, whatever their shapes suggest."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from megadga.probes.gradients import ResidentDirection
from megadga.probes.hooks import hooked
from megadga.probes.layouts import NO_LAYOUTS
from tests.support.derivatives import assert_along, filled, normal, pieces_of
from tests.support.hooking import CPU, layouts_of, of_outputs

S, WIDTH = 5, 4


class PackedRow(nn.Module):
    """Attention over one row of all sequences, each of which sees itself alone."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(S, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        sequence = torch.arange(len(x)).repeat_interleave(S)
        row = x.reshape(1, -1, WIDTH) + self.positions(torch.arange(S).repeat(len(x))[None])
        h = self.norm(row)
        mask = sequence[:, None] == sequence[None]
        return (
            row + self.project(functional.scaled_dot_product_attention(h, h, h, mask))
        ).square()


class FlatRow(PackedRow):
    """The same without an axis of length 1, and with positions of that shape."""

    def forward(self, x: Tensor) -> Tensor:
        row = x.flatten(0, 1) + self.positions(torch.arange(S).repeat(len(x)))
        return (row + self.project(self.norm(row).sin())).square()


class SequenceSecond(nn.Module):
    """Works on ``(S, B, H)``, as Megatron does, and on the flattened form of that."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(S, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(0, 1) + self.positions(torch.arange(S)[:, None])
        h = self.first(h).sin()
        h = self.second(h.flatten(0, 1)).unflatten(0, (S, -1))
        return h.transpose(0, 1).square()


class DenseExperts(nn.Module):
    """Every expert sees every token: ``(experts, tokens, H)``; as many experts as sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Experts()
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.inner(x.flatten(0, 1)).sin()).sum(0).view_as(x).square()


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(2, WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[None] @ self.up


class OncePerSequence(nn.Module):
    """Looks one thing up for each sequence, by ids of shape ``(B,)``."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = nn.Embedding(97, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        kinds = (x[:, 0, 0] * 100.0).abs().long() % 97
        return (x * self.kind(kinds)[:, None]).sin()


class Prompted(nn.Module):
    """Puts learned tokens ahead of every sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Embedding(3, WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        prompt = self.prompt(torch.arange(3).expand(len(x), 3))
        return self.project(torch.cat([prompt, x], dim=1).cumsum(1).sin())


class Adapted(nn.Module):
    """A low-rank adapter that adds nothing yet, and a gain in a dictionary of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(WIDTH, 2, bias=False)
        self.back = nn.Linear(2, WIDTH, bias=False)
        self.gains = nn.ParameterDict({"gain": nn.Parameter(torch.ones(WIDTH))})

    def forward(self, x: Tensor) -> Tensor:
        return ((x + 0.5 * self.back(self.into(x))) * self.gains["gain"]).square()


class AllPositionsAtOnce(nn.Module):
    """Token types, and positions of which each sequence has the same, by several functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(2, WIDTH)
        self.positions = nn.Embedding(S, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.kinds(torch.zeros(1, S, dtype=torch.long)) + self.positions(torch.arange(S))
        return (x * shared.to(x.dtype)).sin()


class HeadBias(nn.Module):
    """A bias of shape ``(heads, S, S)`` that all sequences share; as many heads as sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = _Bias()

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2)
        return (scores[:, None] + self.bias()).softmax(-1).square()


class _Bias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(S * S, 2))

    def forward(self) -> Tensor:
        return self.table.T.reshape(2, S, S)


MEASURED = [
    PackedRow,
    FlatRow,
    SequenceSecond,
    DenseExperts,
    OncePerSequence,
    Prompted,
    Adapted,
    AllPositionsAtOnce,
    HeadBias,
]


@pytest.mark.parametrize("num_sequences", [1, 2, 3])
@pytest.mark.parametrize("build", MEASURED)
def test_sequences_are_told_from_one_another(build: type[nn.Module], num_sequences: int):
    module = filled(build())
    pieces, x = pieces_of(module), normal(num_sequences, S, WIDTH)

    found = of_outputs(module, ResidentDirection(pieces), x)

    assert_along(found, [module(each[None]).sum() for each in x], pieces)


def test_a_layer_that_still_returns_zeros_is_laid_out_by_what_it_is_given():
    module = filled(Adapted())
    nn.init.zeros_(module.back.weight)
    pieces, x = pieces_of(module), normal(3, S, WIDTH)

    found = of_outputs(module, ResidentDirection(pieces), x)

    assert_along(found, [module(each[None]).sum() for each in x], pieces)


class AxisByCaller(nn.Module):
    """Positions to which the caller adds an axis: they cannot be repeated without its knowing."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(S, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.table(torch.arange(S))[None]).sin()


class Unpadded(nn.Module):
    """Drops tokens, more of one sequence than of another, as training without padding does."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([S, 1, 3])[: len(x)]
        kept = torch.arange(S) < lengths[:, None]
        return torch.zeros_like(x).masked_scatter(kept[..., None], self.project(x[kept]).sin())


class OfAll(nn.Module):
    """Normalises over the micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).square()


class ItsParameter(nn.Module):
    """Has a child that returns its parameter as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = _Parameter()

    def forward(self, x: Tensor) -> Tensor:
        return (functional.linear(x, self.gain()) + self.gain()[0]).sin()


class _Parameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(WIDTH, WIDTH))

    def forward(self) -> Tensor:
        return self.value


NOT_TOLD: list[tuple[type[nn.Module], str]] = [
    (AxisByCaller, "table"),
    (Unpadded, "project"),
    (OfAll, "norm"),
    (ItsParameter, "gain"),
]


@pytest.mark.parametrize(("build", "name"), NOT_TOLD)
def test_where_sequences_cannot_be_told_the_module_is_named(build: type[nn.Module], name: str):
    module = filled(build())
    assert name in layouts_of(module, normal(2, S, WIDTH)).unknown


@pytest.mark.parametrize(("build", "name"), NOT_TOLD)
def test_what_was_not_seen_before_is_named_and_adds_up_to_the_whole(
    build: type[nn.Module], name: str
):
    module = filled(build())
    pieces, x = pieces_of(module), normal(2, S, WIDTH)
    with hooked(module, ResidentDirection(pieces), NO_LAYOUTS) as sequence_hooks:
        sums = sequence_hooks.begin(2, CPU)
        module(x).sum().backward()

    assert name in sequence_hooks.unknown
    total = sums.total()
    assert total is not None
    assert_along(total.sum()[None], [module(x).sum()], pieces)


@pytest.mark.parametrize("build", [build for build, _ in NOT_TOLD])
def test_a_sequence_alone_is_measured_in_any_module(build: Callable[[], nn.Module]):
    module = filled(build())
    pieces, x = pieces_of(module), normal(1, S, WIDTH)
    with hooked(module, ResidentDirection(pieces), NO_LAYOUTS) as sequence_hooks:
        sums = sequence_hooks.begin(1, CPU)
        module(x).sum().backward()

    total = sums.total()
    assert total is not None
    assert_along(total, [module(x).sum()], pieces)
