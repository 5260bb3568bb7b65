"""What probes take for the loss. On real engines: tests/distributed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from megadga.data.targets import PADDING
from megadga.probes.loss import as_counted, causal_lm_loss, mean_loss
from tests.support.probed_models import gpt2, hf_llama
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY

EPSILON = torch.finfo(torch.float32).eps
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, PADDING, PADDING]])


class Constant(nn.Module):
    """Returns the same whatever it is shown."""

    def __init__(self, losses: Tensor) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, tokens: Tensor) -> Tensor:
        return self.losses


def test_a_scalar_is_the_mean_already():
    assert mean_loss(Constant(torch.tensor(2.5)), TOKENS).item() == 2.5


def test_losses_of_padding_do_not_count_whatever_they_are():
    losses = torch.tensor([[1.0, 2.0, 4.0], [9.0, float("nan"), float("inf")]])
    assert mean_loss(Constant(losses), TOKENS).item() == 4.0


def test_losses_of_padding_have_no_gradient():
    losses = torch.tensor([[1.0, 2.0, 4.0], [9.0, 7.0, float("nan")]], requires_grad=True)

    mean_loss(Constant(losses), TOKENS).backward()

    assert losses.grad is not None
    assert losses.grad.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]


def test_without_padding_it_is_the_mean_to_the_bit():
    losses = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    tokens = torch.ones(3, 8, dtype=torch.int64)
    assert mean_loss(Constant(losses), tokens).item() == losses.mean().item()


def test_losses_in_half_precision_are_averaged_in_single():
    losses = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0078125]], dtype=torch.bfloat16)
    tokens = torch.ones(2, 4, dtype=torch.int64)

    found = mean_loss(Constant(losses), tokens)

    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1.0 + 0.0078125 / 6, rel=EPSILON)


@pytest.mark.parametrize("shape", [(1,), (6,), (2,), (2, 4), (2, 3, 1)])
def test_anything_else_is_refused_by_shape(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"one loss a token, shape \(2, 3\), found shape \(") as e:
        mean_loss(Constant(torch.zeros(shape)), TOKENS)
    assert str(e.value).endswith(f"found shape {shape}")


@dataclass
class Output:
    """As Hugging Face's models return."""

    loss: Tensor | None
    logits: Tensor


class Returning(nn.Module):
    """Returns an object whatever it is shown."""

    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.returned = returned

    def forward(self, tokens: Tensor) -> Any:
        return self.returned


@pytest.mark.parametrize("loss", [torch.tensor(2.5), torch.full((2, 3), 2.5)])
def test_the_loss_of_an_output_is_taken(loss: Tensor):
    assert mean_loss(Returning(Output(loss, torch.zeros(()))), TOKENS).item() == 2.5
    assert mean_loss(Returning({"loss": loss}), TOKENS).item() == 2.5


COUNTED: dict[str, tuple[tuple[Tensor, Tensor | int], float, list[float]]] = {
    "losses and a mask": (
        (torch.full((2, 3), 2.5), torch.tensor([[1, 1, 0], [0, 1, 0]])),
        7.5,
        [2.0, 1.0],
    ),
    "sums and counts": ((torch.tensor([5.0, 2.5]), torch.tensor([2, 1])), 7.5, [2.0, 1.0]),
    "sum and count": ((torch.tensor(7.5), torch.tensor(3)), 7.5, [3.0]),
    "sum and number": ((torch.tensor(7.5), 3), 7.5, [3.0]),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", COUNTED)
def test_a_module_may_say_what_its_loss_counts(name: str, *, wrapped: bool):
    pair, total, counts = COUNTED[name]
    module = Returning({"loss": pair} if wrapped else pair)

    counted = as_counted(mean_loss(module, TOKENS), len(TOKENS))

    assert counted is not None
    assert counted.total.item() == total
    assert counted.counts.tolist() == counts


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ((torch.zeros(()), torch.zeros(2)), "found a tuple of 2"),
        (
            Output(None, torch.zeros(2)),
            "found a Output without one (is it called without labels?)",
        ),
        ({"logits": torch.zeros(2)}, "found a dict without one (is it called without labels?)"),
        (2.5, "found a float"),
        (None, "found a NoneType"),
    ],
)
def test_what_has_no_loss_is_refused_by_what_it_is(returned: Any, found: str):
    with pytest.raises(ValueError, match="module: expected a tensor of losses, or an object") as e:
        mean_loss(Returning(returned), TOKENS)
    assert str(e.value).endswith(found)


@pytest.mark.parametrize("build", [hf_llama, gpt2])
def test_a_causal_model_has_the_loss_that_it_gives_itself_with_labels(
    build: Callable[[], nn.Module],
):
    model = build()
    tokens = torch.randint(
        VOCABULARY, (3, SEQUENCE_LENGTH), generator=torch.Generator().manual_seed(0)
    )

    found = causal_lm_loss(model, tokens)

    # The model shifts its labels by itself: the last input has no target.
    expected = model(input_ids=tokens, labels=tokens).loss
    torch.testing.assert_close(found, expected, rtol=8 * EPSILON, atol=0.0)


def test_padding_of_a_causal_model_changes_nothing():
    model = hf_llama()
    tokens = torch.randint(1, VOCABULARY, (1, 9), generator=torch.Generator().manual_seed(0))
    padded = functional.pad(tokens[:, :5], (0, 4), value=PADDING)

    found = causal_lm_loss(model, padded)

    torch.testing.assert_close(
        found, causal_lm_loss(model, tokens[:, :5]), rtol=8 * EPSILON, atol=0.0
    )


def test_a_causal_model_in_half_precision_has_a_loss_in_single():
    model = hf_llama().bfloat16()
    loss = causal_lm_loss(model, torch.ones(2, 9, dtype=torch.int64))
    assert loss.dtype == torch.float32
