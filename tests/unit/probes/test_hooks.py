"""Derivatives of each sequence of whole models, from one backward pass through their hooks."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from megadga.probes.gradients import ResidentDirection
from megadga.probes.hooks import hooked
from megadga.probes.layouts import NO_LAYOUTS
from megadga.probes.loss import Loss, causal_lm_loss, mean_loss
from megadga.probes.sequence_rows import SequenceSums
from tests.support.derivatives import assert_along, filled, pieces_of, thin
from tests.support.hooking import CPU, alone, derivatives, layouts_of, tokens_of
from tests.support.models import SmallDecoder
from tests.support.probed_models import gpt2, hf_llama, llama
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY


def small() -> nn.Module:
    return SmallDecoder(VOCABULARY, SEQUENCE_LENGTH)


MODELS: dict[str, tuple[Callable[[], nn.Module], Loss, torch.dtype]] = {
    "small": (small, mean_loss, torch.float64),
    "small-scalar": (
        lambda: SmallDecoder(VOCABULARY, SEQUENCE_LENGTH, scalar=True),
        mean_loss,
        torch.float64,
    ),
    "llama": (llama, mean_loss, torch.float64),
    "llama-untied": (lambda: llama(tied=False), mean_loss, torch.float64),
    "gpt2": (gpt2, causal_lm_loss, torch.float64),
    "hf-llama": (hf_llama, causal_lm_loss, torch.float32),  # its norms and angles are float32
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[nn.Module, Loss, torch.dtype]:
    build, loss, dtype = MODELS[request.param]
    return filled(build()), loss, dtype


@pytest.mark.parametrize("num_sequences", [1, 3])
def test_each_sequence_has_the_derivative_that_it_has_alone(
    model: tuple[nn.Module, Loss, torch.dtype], num_sequences: int
):
    module, loss, dtype = model
    pieces, tokens = pieces_of(module), tokens_of(num_sequences)

    found = derivatives(module, ResidentDirection(pieces), tokens, loss)

    assert_along(found, alone(module, tokens, loss), pieces, dtype=dtype)


def test_thin_factors_give_what_their_products_give(model: tuple[nn.Module, Loss, torch.dtype]):
    module, loss, dtype = model
    factored, products = thin(pieces_of(module))
    tokens = tokens_of(3)

    found = derivatives(module, ResidentDirection(factored), tokens, loss)

    assert_along(found, alone(module, tokens, loss), products, dtype=dtype)


def test_weight_gradients_need_not_be_formed(model: tuple[nn.Module, Loss, torch.dtype]):
    module, loss, dtype = model
    pieces, tokens = pieces_of(module), tokens_of(3)
    module.requires_grad_(False)
    found = derivatives(module, ResidentDirection(pieces), tokens, loss)
    assert all(parameter.grad is None for parameter in module.parameters())

    for parameter in pieces:
        parameter.requires_grad_(True)
    assert_along(found, alone(module, tokens, loss), pieces, dtype=dtype)


def test_a_direction_without_a_piece_does_not_move_that_parameter():
    module = filled(small())
    pieces = dict(list(pieces_of(module).items())[::2])
    tokens = tokens_of(3)

    found = derivatives(module, ResidentDirection(pieces), tokens)

    assert_along(found, alone(module, tokens), pieces)


def test_micro_batches_have_numbers_of_their_own():
    module = filled(small())
    pieces = pieces_of(module)
    first, second = tokens_of(3), tokens_of(2)
    with hooked(module, ResidentDirection(pieces), layouts_of(module, first)) as sequence_hooks:
        begun: list[SequenceSums] = []
        for tokens in (first, second):
            begun.append(sequence_hooks.begin(len(tokens), CPU))
            mean_loss(module, tokens).backward()

    for sums, tokens in zip(begun, (first, second), strict=True):
        total = sums.total()
        assert total is not None
        assert_along(total * len(tokens), alone(module, tokens), pieces)


@pytest.mark.parametrize(
    "build", [small, llama, lambda: llama(checkpointed=True, num_layers=2), gpt2]
)
def test_training_gradients_keep_their_bits(build: Callable[[], nn.Module]):
    module, tokens = build(), tokens_of(3)
    loss = causal_lm_loss if build is gpt2 else mean_loss
    pieces = {p: torch.ones_like(p) for p in module.parameters() if p.requires_grad}
    loss(module, tokens).backward()
    plain = [parameter.grad for parameter in module.parameters()]
    module.zero_grad()

    derivatives(module, ResidentDirection(pieces), tokens, loss)

    for parameter, expected in zip(module.parameters(), plain, strict=True):
        if expected is None:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, expected)


def num_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_hooks_are_gone_afterwards():
    module = filled(small())
    with hooked(module, ResidentDirection(pieces_of(module)), NO_LAYOUTS):
        assert num_hooks(module) > 0
    assert num_hooks(module) == 0


def test_hooks_are_gone_after_an_exception():
    module = filled(small())

    def fail() -> None:
        with hooked(module, ResidentDirection(pieces_of(module)), NO_LAYOUTS) as sequence_hooks:
            sequence_hooks.begin(1, CPU)
            module(torch.full((1, 3), VOCABULARY))

    with pytest.raises(IndexError):
        fail()
    assert num_hooks(module) == 0


def test_without_gradients_a_model_is_as_it_was():
    module, tokens = filled(small()), tokens_of(3)
    expected = module(tokens)
    with (
        hooked(module, ResidentDirection(pieces_of(module)), NO_LAYOUTS) as sequence_hooks,
        torch.no_grad(),
    ):
        sums = sequence_hooks.begin(3, CPU)
        found = module(tokens)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert sums.total() is None


def test_nothing_is_measured_before_a_micro_batch_begins():
    module, tokens = filled(small()), tokens_of(3)
    pieces = pieces_of(module)
    module.requires_grad_(False)
    with hooked(module, ResidentDirection(pieces), NO_LAYOUTS):
        assert not module(tokens).requires_grad
