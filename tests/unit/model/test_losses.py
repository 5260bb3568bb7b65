"""The cross-entropy of tokens, which stands in for torch's bit for bit."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megadga.data.targets import PADDING
from megadga.model.losses import next_token_losses

V = 20_000


def scores_and_tokens(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Three sequences, whose rows are gone through in two blocks and a rest; one is padded."""
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(3, 40, V, generator=generator)
    tokens = torch.randint(V, (3, 41), generator=generator)
    tokens[1, 20:] = PADDING
    return logits.to(dtype).requires_grad_(), tokens


def by_torch(logits: Tensor, tokens: Tensor) -> Tensor:
    precise = torch.promote_types(logits.dtype, torch.float32)
    return functional.cross_entropy(
        logits.to(precise).flatten(0, 1),
        tokens[:, 1:].flatten(),
        ignore_index=PADDING,
        reduction="none",
    ).view(3, 40)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_losses_and_gradients_have_the_bits_of_torch(dtype, overwrite):
    logits, tokens = scores_and_tokens(dtype)
    weights = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))
    expected = by_torch(logits, tokens)
    (of_expected,) = torch.autograd.grad((expected * weights).sum(), logits)
    scores = logits.detach().clone().requires_grad_()
    found = next_token_losses(scores, tokens[:, 1:], overwrite=overwrite)

    assert torch.equal(found, expected)
    (of_found,) = torch.autograd.grad((found * weights).sum(), scores)

    assert torch.equal(of_found, of_expected)
    # In place of the scores, or beside them.
    assert (of_found.data_ptr() == scores.data_ptr()) is overwrite
    assert torch.equal(scores, logits) is not overwrite


def test_what_has_computed_the_scores_and_needs_them_is_an_error_not_a_wrong_gradient():
    logits, tokens = scores_and_tokens(torch.float32)
    losses = next_token_losses(logits.tanh(), tokens[:, 1:], overwrite=True)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(losses.sum(), logits)


def test_a_second_backward_pass_is_refused():
    logits, tokens = scores_and_tokens(torch.float32)
    loss = next_token_losses(logits, tokens[:, 1:]).mean()
    torch.autograd.grad(loss, logits, retain_graph=True)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, logits)


def test_a_target_outside_the_vocabulary_is_refused():
    logits, tokens = scores_and_tokens(torch.float32)
    tokens[0, 3] = V

    with pytest.raises(IndexError, match=f"Target {V} is out of bounds"):
        next_token_losses(logits, tokens[:, 1:])
