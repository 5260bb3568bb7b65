"""What a model reads of marked tokens, and what its loss is taken on."""

import pytest
import torch
from torch.nn import functional

from megadga.config.llama_shapes import LlamaShape
from megadga.data.targets import INPUT_ONLY, PADDING
from megadga.model.llama import Llama
from megadga.model.losses import inputs_and_targets, target_mask
from megadga.probes.loss import causal_lm_loss, mean_loss

MARKED = torch.tensor(
    [
        [INPUT_ONLY - 7, INPUT_ONLY - 0, 3, INPUT_ONLY - 99, 4],
        [1, INPUT_ONLY - 2, 3, PADDING, PADDING],
    ]
)


def test_marked_tokens_are_read_and_not_predicted():
    inputs, targets = inputs_and_targets(MARKED)
    assert inputs.tolist() == [[7, 0, 3, 99], [1, 2, 3, 0]]
    assert targets.tolist() == [[PADDING, 3, PADDING, 4], [PADDING, 3, PADDING, PADDING]]
    assert target_mask(MARKED).tolist() == (targets != PADDING).tolist()


class Scores(torch.nn.Module):
    """Made-up scores by input, in any of the shapes that a loss is taken from."""

    def __init__(self, llama: Llama) -> None:
        super().__init__()
        self.llama = llama

    def forward(self, input_ids, use_cache):
        assert not use_cache
        return type("Output", (), {"logits": self.llama.logits(input_ids)})


@pytest.mark.parametrize("marked", [MARKED, MARKED[:, 1:]])
def test_losses_are_means_over_the_trained_targets_with_all_tokens_as_inputs(marked):
    shape = LlamaShape(1, 12, 2, 1, 20, tied_embeddings=True)
    llama = Llama(shape, vocabulary_size=100, sequence_length=4, seed=3)
    ids = torch.where(marked <= INPUT_ONLY, INPUT_ONLY - marked, marked).clamp(min=0)
    all_losses = functional.cross_entropy(
        llama.logits(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none"
    )
    trained = marked[:, 1:] >= 0

    losses = llama(marked)

    torch.testing.assert_close(losses, all_losses * trained, rtol=1e-6, atol=0)
    expected = all_losses[trained].mean()
    torch.testing.assert_close(mean_loss(llama, marked), expected)
    torch.testing.assert_close(causal_lm_loss(Scores(llama), marked), expected)
