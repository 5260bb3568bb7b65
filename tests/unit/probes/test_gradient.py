"""Dot products of gradient shards, and what is trained."""

import math

import pytest
import torch
from torch import nn

from megadga.probes.gradients import GradientShard, trained_matrices


def test_dot_is_the_sum_of_products():
    a = GradientShard(torch.tensor([1.0, -2.0, 3.0]))
    b = GradientShard(torch.tensor([4.0, 5.0, 0.5]))

    assert a.dot(b) == 4.0 - 10.0 + 1.5
    assert a.dot(a) == 14.0


def test_dot_of_a_shard_of_several_chunks_is_accumulated_in_float64():
    size = (1 << 22) * 2 + 3
    ones = GradientShard(torch.full((size,), 1.0 / 3.0))

    # n additions err by at most n eps: 1e-9 in float64, and anything at all in float32
    assert ones.dot(ones) == pytest.approx(size * float(torch.tensor(1.0 / 3.0)) ** 2, rel=1e-9)


def test_dot_with_a_nan_is_a_nan():
    a = GradientShard(torch.tensor([1.0, math.nan]))

    assert math.isnan(a.dot(a))


def test_an_empty_shard_adds_nothing():
    empty = GradientShard(torch.empty(0))

    assert empty.dot(empty) == 0.0


def test_matrices_are_trained_if_they_are_not_frozen():
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2), nn.Embedding(7, 4))
    module[2].requires_grad_(False)
    assert trained_matrices(module) == [(5, 3), (7, 4)]
