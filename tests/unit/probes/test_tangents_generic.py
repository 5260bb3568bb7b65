"""Modules of which nothing is known against autograd, a sequence at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from megadga.probes.choosing_tangents import choose_tangent
from megadga.probes.gradients import ResidentDirection
from megadga.probes.sequence_rows import SequenceRows, SequenceSums
from megadga.probes.state import random_states
from megadga.probes.tangents import AnyModuleTangent, BackwardCall, Call
from tests.support.derivatives import (
    assert_along,
    check_tangent,
    filled,
    normal,
    pieces_of,
    thin,
)

B, S, WIDTH = 3, 5, 4


class Scale(nn.Module):
    """A parameter of its own, a child that is a module, and dropout between them."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(WIDTH))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout((x * self.scale).sin()) * self.scale


class Several(nn.Module):
    """Returns tensors of several shapes, one of integers, and something else, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.scale = nn.Parameter(torch.empty(WIDTH))

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        y = x @ self.matrix
        return y.tanh(), {"sum": [y.sum(dim=1), x * 2.0], "largest": y.argmax(-1)}, "name", None


class ByName(nn.Module):
    """Takes its input by name, beside what is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(WIDTH))

    def forward(self, *, x: Tensor, power: int, masks: dict[str, Tensor | None]) -> Tensor:
        mask = masks["kept"]
        assert mask is not None
        return (x * self.scale) ** power * mask


class Moody(nn.Module):
    """Uses its parameter for positive inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(WIDTH))
        self.child = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x * self.scale if bool((x > 0).all()) else x)


@dataclass(frozen=True, eq=False)
class Called:
    """A tangent, and what it has kept of a call."""

    tangent: AnyModuleTangent
    kept: tuple[Tensor | None, ...]

    def derivatives(self, *deltas: Tensor | None) -> Tensor | None:
        sums = SequenceSums()
        rows = [SequenceRows(B)] * len(deltas)
        self.tangent.add_derivatives(sums, BackwardCall(deltas, self.kept, rows))
        return sums.total()


def called(module: nn.Module, direction: ResidentDirection, inputs: Tensor) -> Called:
    call = Call((inputs,), {}, random_states(torch.device("cpu")))
    tangent = choose_tangent(module, direction)
    assert isinstance(tangent, AnyModuleTangent)
    return Called(tangent, tangent.kept(call))


def test_a_module_with_a_parameter_of_its_own():
    module = filled(Scale())
    pieces = pieces_of(module)
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, normal(B, S, WIDTH), num_sequences=B)


def test_dropout_drops_again_what_it_has_dropped():
    module = filled(Scale(dropout=0.5))
    pieces = pieces_of(module)
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, normal(B, S, WIDTH), num_sequences=B)


@pytest.mark.parametrize("in_loss", [slice(None), slice(1), slice(1, 3)])
def test_a_module_with_several_outputs_some_of_them_without_a_gradient(in_loss: slice):
    module = filled(Several())
    module.scale.requires_grad_(False)
    pieces = pieces_of(module)
    inputs = normal(B, S, WIDTH)
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, inputs, num_sequences=B, in_loss=in_loss)


def test_a_matrix_of_its_own_may_be_thin_factors_and_another_parameter_unused():
    module = filled(Several())
    factored, products = thin(pieces_of(module))
    inputs = normal(B, S, WIDTH)
    check_tangent(module, ResidentDirection(factored), products, inputs, num_sequences=B)


def test_a_call_by_name_with_what_is_no_tensor():
    module = filled(ByName())
    pieces = pieces_of(module)
    mask = normal(B, S, WIDTH, seed=1) > 0
    named = {"x": normal(B, S, WIDTH), "power": 3, "masks": {"kept": mask, "other": None}}
    check_tangent(module, ResidentDirection(pieces), pieces, named=named, num_sequences=B)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_with_weights_that_no_child_of_it_is_called_for(
    dropout: float, *, bias: bool, need_weights: bool
):
    module = filled(nn.MultiheadAttention(WIDTH, 2, dropout=dropout, bias=bias, batch_first=True))
    pieces = pieces_of(module)
    assert module.out_proj.weight in pieces
    x, memory = normal(B, S, WIDTH), normal(B, 2 * S, WIDTH, seed=1)
    named = {"need_weights": need_weights}
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, x, memory, memory, named=named, num_sequences=B)


def test_a_layer_that_computes_something_else_than_its_class_is_called_again():
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
            return 2.0 * super().forward(input)

    module = filled(Doubled(WIDTH, WIDTH))
    pieces = pieces_of(module)
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, normal(B, S, WIDTH), num_sequences=B)


def test_only_what_a_module_owns_is_its_own():
    module = filled(Moody())
    pieces = {module.scale: normal(WIDTH)}
    inputs = normal(B, S, WIDTH).abs()
    check_tangent(module, ResidentDirection(pieces), pieces, inputs, num_sequences=B)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_parameter_that_a_call_has_not_used_adds_nothing(*, trainable: bool):
    module = filled(Moody())
    module.requires_grad_(trainable)
    pieces = {parameter: torch.ones_like(parameter) for parameter in module.parameters()}
    moved = called(module, ResidentDirection(pieces), -normal(B, S, WIDTH).abs())
    assert moved.derivatives(torch.ones(B, S, WIDTH, dtype=torch.float64)) is None


class Returned(nn.Module):
    """Returns its parameters as they are, one of them twice, beside something made of one."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(B, WIDTH))
        self.others = nn.Parameter(torch.empty(B, WIDTH))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.rows, x * self.others, self.rows, self.others, x]


@pytest.mark.parametrize("in_loss", [slice(None), slice(1), slice(2, 4)])
def test_a_module_may_return_its_own_parameters(in_loss: slice):
    module = filled(Returned())
    pieces = pieces_of(module)
    direction = ResidentDirection(pieces)
    x = normal(B, WIDTH)
    check_tangent(module, direction, pieces, x, num_sequences=B, in_loss=in_loss)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_returned_parameter_moves_whether_or_not_it_is_trained_now(*, trainable: bool):
    module = filled(Returned())
    pieces = pieces_of(module)
    module.requires_grad_(trainable)
    moved = called(module, ResidentDirection(pieces), normal(B, WIDTH))
    delta = normal(B, WIDTH, seed=1)

    found = moved.derivatives(delta, None, None, None, None)

    torch.testing.assert_close(found, (delta * pieces[module.rows]).sum(1))


REPARAMETRIZED: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "pruned weight_norm": lambda layer: nn.utils.weight_norm(
        prune.random_unstructured(layer, "bias", 0.5)
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_a_layer_whose_weight_is_computed_before_each_call(name: str):
    module = filled(REPARAMETRIZED[name](nn.Linear(WIDTH, 2 * WIDTH)))
    pieces = pieces_of(module)
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, normal(B, S, WIDTH), num_sequences=B)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_computed_weight_is_found_again_after_later_calls(*, trainable: bool):
    module = filled(nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH)))
    pieces, x, delta = pieces_of(module), normal(B, WIDTH), normal(B, WIDTH, seed=1)
    losses = (delta * module(x)).sum(1)  # from here on its vectors are others than before
    module.requires_grad_(trainable)
    call = Call((x,), {}, random_states(torch.device("cpu")))
    tangent = choose_tangent(module, ResidentDirection(pieces))
    assert tangent is not None
    kept = tangent.kept(call)
    module(x)
    weight = module.weight

    sums = SequenceSums()
    tangent.add_derivatives(sums, BackwardCall([delta], kept, [SequenceRows(B)]))
    found = sums.total()
    assert found is not None

    module.requires_grad_(True)
    assert_along(found, list(losses), pieces)
    assert module.weight is weight


class Holder(nn.Module):
    """Its parameters are in dictionaries and lists, in a module that cannot be called."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.ParameterDict({"a": nn.Parameter(torch.empty(WIDTH))})
        self.shifts = nn.ModuleList([nn.ParameterList([nn.Parameter(torch.empty(WIDTH))])])
        self.child = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shifts = self.shifts[0]
        assert isinstance(shifts, nn.ParameterList)
        return self.child(x * self.gains["a"] + shifts[0]).sin() * self.gains["a"]


def test_parameters_in_a_container_belong_to_the_module_that_has_it():
    module = filled(Holder())
    pieces = {p: normal(WIDTH) for name, p in module.named_parameters() if "child" not in name}
    assert len(pieces) == 2
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, normal(B, S, WIDTH), num_sequences=B)


@pytest.mark.parametrize("trainable", [True, False])
def test_calling_again_leaves_parameters_and_random_numbers_as_they_are(*, trainable: bool):
    module = filled(Scale(dropout=0.5))
    direction = ResidentDirection(pieces_of(module))
    module.requires_grad_(trainable)
    torch.manual_seed(3)
    before = torch.get_rng_state()

    moved = called(module, direction, normal(B, S, WIDTH))
    moved.derivatives(torch.ones(B, S, WIDTH, dtype=torch.float64))

    assert torch.equal(torch.get_rng_state(), before)
    assert module.scale.requires_grad is trainable
    assert module.scale.grad is None


def test_the_call_is_repeated_under_the_autocast_that_it_ran_under():
    seen: list[torch.dtype] = []

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.eye(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            y = x @ self.matrix
            seen.append(y.dtype)
            return y

    module = Noting()
    direction = ResidentDirection({module.matrix: torch.ones(WIDTH, WIDTH)})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = called(module, direction, torch.ones(B, WIDTH))
    outside = called(module, direction, torch.ones(B, WIDTH))

    inside.derivatives(torch.ones(B, WIDTH, dtype=torch.bfloat16))
    outside.derivatives(torch.ones(B, WIDTH))

    assert seen == [torch.bfloat16, torch.float32]
