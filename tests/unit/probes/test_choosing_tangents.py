"""Which tangent a module gets."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from megadga.model.llama import Embedding, Linear
from megadga.probes.choosing_tangents import choose_tangent
from megadga.probes.gradients import ResidentDirection
from megadga.probes.tangents import (
    AnyModuleTangent,
    EmbeddingTangent,
    LinearTangent,
    NormTangent,
)
from tests.support.derivatives import pieces_of


def nothing(weight: torch.Tensor) -> None:
    """Leave a weight as it is."""


class Renamed(nn.Linear):
    """A subclass, which may compute something else."""


def with_own_forward(layer: nn.Linear) -> nn.Linear:
    """Give one layer a forward function that its class does not have."""

    def forward(input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's own name)
        return nn.functional.linear(input, 2.0 * layer.weight)

    layer.forward = forward
    return layer


KINDS: list[tuple[nn.Module, type]] = [
    (nn.Linear(2, 3), LinearTangent),
    (Linear(2, 3, nothing), LinearTangent),
    (Conv1D(3, 2), LinearTangent),
    (nn.Embedding(2, 3), EmbeddingTangent),
    (Embedding(2, 3, nothing), EmbeddingTangent),
    (nn.LayerNorm(2), NormTangent),
    (nn.RMSNorm(2), NormTangent),
    (nn.Embedding(2, 3, scale_grad_by_freq=True), AnyModuleTangent),
    (nn.Embedding(2, 3, max_norm=1.0), AnyModuleTangent),
    (nn.MultiheadAttention(2, 1), AnyModuleTangent),
    (Renamed(2, 3), AnyModuleTangent),
    (nn.PReLU(), AnyModuleTangent),
    (nn.utils.spectral_norm(nn.Linear(2, 3)), AnyModuleTangent),
    (prune.identity(nn.Linear(2, 3), "weight"), AnyModuleTangent),
    (prune.identity(nn.LayerNorm(2), "bias"), AnyModuleTangent),
    (nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)), AnyModuleTangent),
    (with_own_forward(nn.Linear(2, 3)), AnyModuleTangent),
]


@pytest.mark.parametrize(
    ("module", "kind"), KINDS, ids=[f"{type(m).__module__}.{type(m).__name__}" for m, _ in KINDS]
)
def test_layers_that_are_known_have_a_tangent_of_their_own(module: nn.Module, kind: type):
    assert type(choose_tangent(module, ResidentDirection(pieces_of(module)))) is kind


def test_a_module_that_nothing_moves_has_none():
    module = nn.Linear(2, 3)
    assert choose_tangent(module, ResidentDirection({})) is None


def test_a_module_that_owns_nothing_has_none_whatever_its_children_have():
    module = nn.Sequential(nn.Linear(2, 3))
    assert choose_tangent(module, ResidentDirection(pieces_of(module))) is None


def test_what_cannot_be_called_has_none_and_leaves_its_parameters_to_what_has_it():
    module = nn.Sequential(nn.ParameterDict({"gain": nn.Parameter(torch.ones(2))}))
    direction = ResidentDirection(pieces_of(module))
    assert choose_tangent(module[0], direction) is None
    assert isinstance(choose_tangent(module, direction), AnyModuleTangent)


def test_attention_whose_output_projection_alone_moves_has_one():
    module = nn.MultiheadAttention(2, 1)
    weight = module.get_parameter("out_proj.weight")
    direction = ResidentDirection({weight: torch.ones_like(weight)})
    assert choose_tangent(module, direction) is not None
