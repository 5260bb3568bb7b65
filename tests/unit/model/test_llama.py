import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from megadga.config.llama_shapes import LlamaShape
from megadga.data.targets import PADDING
from megadga.model.llama import Llama

SHAPE = LlamaShape(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=48,
    tied_embeddings=True,
)
VOCABULARY, LENGTH = 300, 16


def build(shape: LlamaShape = SHAPE, *, seed: int = 5, checkpoint_activations: bool = False):
    return Llama(
        shape,
        vocabulary_size=VOCABULARY,
        sequence_length=LENGTH,
        seed=seed,
        checkpoint_activations=checkpoint_activations,
    )


def windows(count: int = 3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (count, LENGTH + 1), generator=generator)


@pytest.mark.parametrize("tied", [True, False])
def test_the_count_by_arithmetic_is_the_real_one(tied):
    shape = replace(SHAPE, tied_embeddings=tied)

    assert sum(p.numel() for p in build(shape).parameters()) == shape.num_parameters(VOCABULARY)


def test_forward_is_the_cross_entropy_of_every_next_token():
    model, tokens = build(), windows()

    losses = model(tokens)

    log_probabilities = model.logits(tokens[:, :-1]).log_softmax(-1)
    expected = -log_probabilities.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    assert losses.shape == (3, LENGTH)
    torch.testing.assert_close(losses, expected)
    # Fresh weights know nothing: nearly uniform predictions.
    assert losses.mean().item() == pytest.approx(math.log(VOCABULARY), abs=0.5)


def test_losses_are_float32_in_a_bfloat16_model():
    model = build().to(torch.bfloat16)

    losses = model(windows())

    assert losses.dtype == torch.float32
    assert model.rotary.cosines.dtype == torch.float32


def test_a_position_never_sees_what_follows():
    model, tokens = build(), windows(1)[:, :-1]
    changed = tokens.clone()
    changed[0, 9] = (tokens[0, 9] + 1) % VOCABULARY

    difference = (model.logits(tokens) - model.logits(changed)).abs().amax(-1)[0]

    assert difference[:9].max() == 0.0
    assert difference[9:].min() > 0.0


def padded(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """The first ``length`` tokens of a window, and padding after them."""
    place = torch.arange(LENGTH + 1)
    return torch.where(place < length, tokens, PADDING)


def test_the_loss_of_padding_is_zero():
    losses = build()(padded(windows(2), 6))

    assert losses.shape == (2, LENGTH)
    assert losses[:, :5].min() > 0.0
    assert losses[:, 5:].count_nonzero() == 0


def test_whatever_fills_the_padding_moves_no_bit_of_losses_and_gradients():
    # A longer text and a padded one differ in nothing but what the padding hides.
    model, tokens = build(), windows(2)

    def of(inputs: torch.Tensor) -> list[torch.Tensor]:
        losses = nn.functional.cross_entropy(
            model.logits(inputs).flatten(0, 1), padded(tokens, 6)[:, 1:].flatten()
        )
        return [losses, *torch.autograd.grad(losses, list(model.parameters()))]

    hidden = padded(tokens, 6)[:, :-1].clamp(min=0)
    for one, other in zip(of(hidden), of(tokens[:, :-1]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("length", [2, 6, LENGTH + 1])
def test_a_padded_document_has_the_losses_and_gradients_of_the_document_alone(length):
    model, tokens = build().double(), windows(2)
    parameters = list(model.parameters())

    losses = model(padded(tokens, length))[:, : length - 1]
    alone = model(tokens[:, :length])

    # All is float64 but the cross-entropy, which rounds each loss and each logit's gradient to
    # float32, within 2^-24 of it; the 2 x 16 positions may add up to 32 times that.
    torch.testing.assert_close(losses, alone, rtol=2**-23, atol=0)
    one, other = (
        torch.cat([g.flatten() for g in torch.autograd.grad(found.sum(), parameters)])
        for found in (losses, alone)
    )
    assert (one - other).abs().max() <= 2**-19 * other.abs().max()


def test_grouped_queries_share_keys_and_values_in_order():
    grouped = build()
    full = build(replace(SHAPE, num_kv_heads=4))
    state = grouped.state_dict()
    for name in state:
        if ".key." in name or ".value." in name:
            heads = state[name].unflatten(0, (2, 8))
            state[name] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)

    torch.testing.assert_close(full(windows()), grouped(windows()))


def test_activation_checkpointing_changes_no_bit():
    plain, checkpointed = build(), build(checkpoint_activations=True)

    for model in (plain, checkpointed):
        model(windows()).mean().backward()

    for kept, recomputed in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert kept.grad is not None
        assert recomputed.grad is not None
        assert torch.equal(kept.grad, recomputed.grad)


def test_weights_are_a_function_of_the_seed():
    first, again, other = build(seed=5), build(seed=5), build(seed=6)

    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_tied_embeddings_are_one_parameter():
    tied, untied = build(), build(replace(SHAPE, tied_embeddings=False))

    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight


def test_a_few_steps_learn_a_repeated_window():
    model, tokens = build(), windows(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    for _ in range(30):
        optimizer.zero_grad()
        model(tokens).mean().backward()
        optimizer.step()

    assert model(tokens).mean().item() < 0.5


def test_a_sequence_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="expected at most 16 positions, found 17"):
        build().logits(torch.zeros(1, 17, dtype=torch.int64))


def test_the_model_compiles_whole(monkeypatch):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, _: list[Tensor]) -> GraphModule:
        graphs.append(graph)
        return graph

    model, tokens = build(), windows()
    compiled = torch.compile(model, fullgraph=True, backend=keep)

    torch.testing.assert_close(compiled(tokens), model(tokens))
    assert len(graphs) == 1


# Of torch's own, which looks at the inputs of what it compiles.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_compiled_blocks_compute_what_the_blocks_do(monkeypatch, checkpoint_activations):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    plain, compiled = (build(checkpoint_activations=checkpoint_activations) for _ in range(2))
    compiled.compile_blocks(backend="aot_eager")
    names = list(compiled.state_dict())

    found, expected = compiled(windows()), plain(windows())
    for losses in (found, expected):
        losses.mean().backward()

    # The plain formulas in place of the functions of megadga.model.fused: the same but for the
    # order of rounding, of 2^-24 each, through two blocks.
    torch.testing.assert_close(found, expected, rtol=2**-19, atol=0)
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad - other.grad).norm() <= 2**-17 * other.grad.norm()
    assert names == list(plain.state_dict())
    assert all(block._compiled_call_impl is not None for block in compiled.blocks)
