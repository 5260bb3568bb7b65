"""Hooks inside blocks whose activations are computed again in the backward pass."""

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from megadga.probes.gradients import ResidentDirection
from megadga.probes.hooks import hooked
from megadga.probes.loss import causal_lm_loss, mean_loss
from tests.support.derivatives import assert_along, filled, normal, pieces_of, thin
from tests.support.hooking import CPU, alone, derivatives, layouts_of, of_outputs, tokens_of
from tests.support.probed_models import hf_llama, llama


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointed_activations_give_the_same_numbers(*, reentrant: bool, frozen: bool):
    module = filled(hf_llama(checkpointed=True, reentrant=reentrant, num_layers=2)).train()
    plain = filled(hf_llama(num_layers=2))
    pieces, tokens = pieces_of(module), tokens_of(3)
    module.requires_grad_(not frozen)

    found = derivatives(module, ResidentDirection(pieces), tokens, causal_lm_loss)

    direction = ResidentDirection(pieces_of(plain))
    expected = derivatives(plain, direction, tokens, causal_lm_loss)
    # A reentrant checkpoint's forward pass is without gradients, for which torch may take another
    # kernel of attention: the last bits are the processor's.
    torch.testing.assert_close(found, expected, rtol=1e-12 if reentrant else 0.0, atol=0.0)


@pytest.mark.parametrize("factored", [False, True])
def test_our_checkpointed_model_gives_the_same_numbers(*, factored: bool):
    module = filled(llama(checkpointed=True, num_layers=2))
    pieces, tokens = pieces_of(module), tokens_of(3)
    given, dense = thin(pieces) if factored else (pieces, pieces)

    found = derivatives(module, ResidentDirection(given), tokens)

    assert_along(found, alone(module, tokens), dense)


class DroppingBlock(nn.Module):
    """Attention, called again for its tangent, and projections, with dropout in all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_dropout_inside_a_checkpointed_block_drops_the_same_every_time():
    module = filled(DroppingBlock())
    pieces, x = pieces_of(module), normal(3, 5, 4)
    torch.manual_seed(7)
    losses = module.inner(x).flatten(1).sum(1)

    torch.manual_seed(7)
    found = of_outputs(module, ResidentDirection(pieces), x)

    assert_along(found, list(losses), pieces)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("factored", [False, True])
def test_taps_keep_nothing_of_what_checkpointing_drops(*, frozen: bool, factored: bool):
    def inputs_alive(*, checkpointed: bool) -> list[bool]:
        """Whether what each module inside the blocks was called with is there in the end."""
        module = filled(llama(checkpointed=checkpointed, num_layers=2))
        pieces = pieces_of(module)
        module.requires_grad_(not frozen)
        inputs: list[StorageWeakRef] = []

        def note(_: nn.Module, positional: tuple[Tensor, ...]) -> None:
            inputs.append(StorageWeakRef(positional[0].untyped_storage()))

        for block in module.get_submodule("blocks").children():
            for child in block.modules():
                if list(child.parameters(recurse=False)):
                    child.register_forward_pre_hook(note)
        direction = ResidentDirection(thin(pieces)[0] if factored else pieces)
        layouts = layouts_of(module, tokens_of(3))
        inputs.clear()
        with hooked(module, direction, layouts) as sequence_hooks:
            sequence_hooks.begin(3, CPU)
            loss = mean_loss(module, tokens_of(3))
            alive = [not each.expired() for each in inputs]
        assert loss.requires_grad
        return alive

    # A norm, query, key, value, output; a norm, gate, up, down. The first reads the block's input.
    of_block = [True, *[False] * 8]
    assert inputs_alive(checkpointed=True) == of_block * 2
    assert sum(inputs_alive(checkpointed=False)) > 2
