"""The cross-entropy of tokens, which stands in for torch's bit for bit."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megadga.data.targets import PADDING
from megadga.model.losses import LossKernels, losses_and_norms, next_token_losses, sequence_norms

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


# Of torch's own, which looks at the inputs of what it compiles.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_losses_and_gradients_are_those_of_torch_up_to_rounding(
    monkeypatch, dtype, overwrite
):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    logits, tokens = scores_and_tokens(dtype)
    weights = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))
    expected = by_torch(logits.double(), tokens)
    (of_expected,) = torch.autograd.grad((expected * weights).sum(), logits)
    scores = logits.detach().clone().requires_grad_()
    kernels = LossKernels.compiled(backend="aot_eager")
    found = next_token_losses(scores, tokens[:, 1:], overwrite=overwrite, kernels=kernels)

    torch.testing.assert_close(found.double(), expected, rtol=2**-20, atol=0)
    assert found[1, 20:].eq(0.0).all()
    (of_found,) = torch.autograd.grad((found * weights).sum(), scores)

    # Differences of float32, rounded to the dtype.
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(of_found, of_expected, rtol=rounding, atol=2**-22)
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


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)]
)
def test_norms_are_those_of_the_gradients_that_autograd_takes_in_float64(
    dtype, tolerance, overwrite
):
    logits, tokens = scores_and_tokens(dtype)
    exact = logits.detach().double().requires_grad_()
    (gradients,) = torch.autograd.grad(by_torch(exact, tokens).sum(), exact)

    scores = logits.detach().clone().requires_grad_()
    losses, norms = losses_and_norms(scores, tokens[:, 1:], overwrite=overwrite)

    assert torch.equal(losses, by_torch(logits, tokens))
    assert not norms.requires_grad
    expected = gradients.norm(dim=-1)
    torch.testing.assert_close(norms.double(), expected, rtol=tolerance, atol=0.0)
    assert not norms[1, 19:].any()  # padding

    # Of a sequence: that of its mean loss's gradient, times the root of its targets' number.
    means = by_torch(exact, tokens).sum(-1) / (tokens[:, 1:] >= 0).sum(-1)
    (gradients,) = torch.autograd.grad(means.sum(), exact)
    num_targets = (tokens[:, 1:] >= 0).sum(-1).double()
    by_sequence = gradients.flatten(1).norm(dim=-1) * num_targets.sqrt()
    found = sequence_norms(norms, tokens[:, 1:]).double()
    torch.testing.assert_close(found, by_sequence, rtol=tolerance, atol=0.0)


def test_norms_equal_the_values_worked_out_by_hand():
    # Scores log(1, 2, 5): p = (1, 2, 5) / 8. For the target 2: (1, 2, -3) / 8, of length
    # sqrt(14) / 8; for the target 0: (-7, 2, 5) / 8, sqrt(78) / 8.
    scores = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log().expand(1, 2, 3)
    _, norms = losses_and_norms(scores, torch.tensor([[2, 0]]))
    expected = torch.tensor([[14.0, 78.0]], dtype=torch.float64).sqrt() / 8
    torch.testing.assert_close(norms, expected, rtol=1e-14, atol=0.0)
    (norm,) = sequence_norms(norms, torch.tensor([[2, 0]]))
    assert norm.item() == pytest.approx((92 / 2) ** 0.5 / 8, rel=1e-14)


def test_a_norm_is_precise_where_the_target_is_all_but_certain():
    # 1 - p and the p of the other are both e^-30 / (1 + e^-30): their length is sqrt(2) times it.
    _, norms = losses_and_norms(torch.tensor([[[30.0, 0.0]]]), torch.tensor([[0]]))
    assert norms.item() == pytest.approx(2**0.5 * math.exp(-30), rel=1e-6)
