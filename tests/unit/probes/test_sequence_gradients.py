"""Projected gradients of sequences, against those of each sequence alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from megadga.config.llama_shapes import LlamaShape
from megadga.errors import UnsupportedEngineError
from megadga.model.llama import Llama
from megadga.probes.sequence_gradients import Piece, Projection, SequenceGradients, find_pieces

CPU = torch.device("cpu")
EXACT = Projection(None, seed=0)
TOKENS = torch.randint(7, (5, 7), generator=torch.Generator().manual_seed(0))


class Unusual(nn.Module):
    """Padding of an embedding, biases, a norm with a bias, a vector that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=3)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, tokens: Tensor) -> Tensor:
        return (self.scale * self.head(self.norm(self.embedding(tokens)))).square().mean(-1)


def llama(*, tied=False, checkpoint=False):
    shape = LlamaShape(2, 8, 2, 1, 12, tied)
    return Llama(
        shape, vocabulary_size=7, sequence_length=6, seed=3, checkpoint_activations=checkpoint
    )


MODELS = {
    "llama": llama,
    "tied": lambda: llama(tied=True),
    "recomputed": lambda: llama(checkpoint=True),
    "unusual": Unusual,
}


def collected(model, gradients, tokens=TOKENS):
    with gradients.collecting(len(tokens)) as found:
        model(tokens).mean(1).sum().backward()
    return found[0]


def alone(model, tokens=TOKENS):
    """The gradient of each sequence, from a pass of its own, by parameter."""
    every = []
    for row in tokens:
        model.zero_grad()
        model(row[None]).mean().backward()
        every.append([p.grad.clone() for p in model.parameters()])
    return [torch.stack(each) for each in zip(*every, strict=True)]


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_without_projection_they_are_the_gradients_of_each_sequence_alone(build):
    torch.manual_seed(1)
    model = build().double()
    gradients = SequenceGradients(model, EXACT, CPU)
    names = [piece.name for piece in gradients.pieces]
    assert names == [name for name, _ in model.named_parameters() if name != "scale"]

    found = collected(model, gradients)

    parameters = dict(zip([n for n, _ in model.named_parameters()], alone(model), strict=True))
    expected = torch.cat([parameters[name].flatten(1) for name in names], dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_projected_they_are_what_two_matrices_make_of_these():
    model, projection = llama(tied=True).double(), Projection(3, seed=5)
    gradients = SequenceGradients(model, projection, CPU)
    whole = dict(zip([n for n, _ in model.named_parameters()], alone(model), strict=True))

    found = collected(model, gradients).split([p.size for p in gradients.pieces], dim=1)

    for piece, part in zip(gradients.pieces, found, strict=True):
        expected = whole[piece.name]
        for axis, size in enumerate(piece.shape):
            matrix = projection.matrix(piece.name, axis, size)
            assert matrix is not None
            expected = torch.movedim(expected, axis + 1, -1) @ matrix.double()
            expected = torch.movedim(expected, -1, axis + 1)
        assert part[0].numel() == piece.size
        torch.testing.assert_close(part.reshape_as(expected), expected, rtol=0, atol=1e-13)


def test_projections_are_addressed_and_preserve_products_on_average():
    assert Projection(4, seed=0).matrix("a", 0, 4) is None
    assert Projection(4, seed=0).kept((4, 5)) == (4, 4)
    matrices = [Projection(4, seed=seed).matrix("a", 0, 6) for seed in range(400)]
    again = Projection(4, seed=0).matrix("a", 0, 6)
    assert matrices[0] is not None
    assert again is not None
    assert torch.equal(matrices[0], again)
    other = Projection(4, seed=0).matrix("a", 1, 6)
    assert other is not None
    assert not torch.equal(matrices[0], other)
    products = torch.stack([m @ m.T for m in matrices if m is not None]).mean(0)
    # Off the diagonal a mean of 1,600 signs over 4: its deviation is 0.025.
    np.testing.assert_allclose(products, np.eye(6), atol=5 * 0.025)


def test_the_pass_and_its_gradients_keep_their_bits():
    def trained(*, collects):
        model = llama()
        gradients = SequenceGradients(model, Projection(2, seed=0), CPU)
        if collects:
            with gradients.collecting(5):
                losses = model(TOKENS)
                losses.mean().backward()
        else:
            losses = model(TOKENS)
            losses.mean().backward()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        return losses, [p.grad for p in model.parameters()]

    (losses, found), (expected_losses, expected) = trained(collects=True), trained(collects=False)
    assert torch.equal(losses, expected_losses)
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_micro_batches_are_apart_and_passes_without_gradients_are_none():
    model = llama().double()
    gradients = SequenceGradients(model, EXACT, CPU)
    first, second = (
        collected(model, gradients, TOKENS[:2]),
        collected(model, gradients, TOKENS[2:4]),
    )
    with gradients.collecting(2) as found:
        model(TOKENS[:2]).mean(1).sum().backward()
        with torch.no_grad():
            model(TOKENS)
        model(TOKENS[2:4]).mean(1).sum().backward()
    assert [torch.equal(a, b) for a, b in zip(found, (first, second), strict=True)] == [True] * 2


def test_sides_that_are_no_longer_than_the_dimension_are_kept():
    pieces = {piece.name: piece for piece in find_pieces(llama(), Projection(8, seed=0))}
    name = "blocks.0.feed_forward.gate.weight"
    assert pieces[name] == Piece(name, (12, 8), (8, 8))
    assert pieces["norm.weight"].kept == (8,)
    assert pieces["embedding.weight"].kept == (7, 8)


class Odd(nn.Module):
    """Mixes sequences with positions, and has a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(0, 1))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 3, 4), "expected head to return 2 sequences along its first axis, found 1 inputs"),
        ((2, 1, 3, 4), "found unused.weight, unused.bias without a gradient"),
    ],
)
def test_models_whose_sequences_cannot_be_told_apart_are_refused(shape, expected):
    model = Odd()
    gradients = SequenceGradients(model, EXACT, CPU)
    with (
        pytest.raises(UnsupportedEngineError, match=expected),
        gradients.collecting(2),
    ):
        model(torch.ones(shape)).sum().backward()


def test_matrices_of_other_modules_are_refused():
    expected = (
        "expected matrices of linear layers and embeddings alone, found 0.weight of a Conv1d"
    )
    with pytest.raises(UnsupportedEngineError, match=expected):
        find_pieces(nn.Sequential(nn.Conv1d(2, 2, 1)), EXACT)
