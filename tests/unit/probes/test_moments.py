from types import SimpleNamespace

import pytest
import torch

from megadga.errors import UnsupportedEngineError
from megadga.probes.directions import check_moments


class DeepSpeedZeroOptimizer:
    """Has DeepSpeed's name, by which wrappers are told apart."""

    def __init__(self, *, round_robin_gradients):
        self.round_robin_gradients = round_robin_gradients


def engine(**options):
    basic = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    return SimpleNamespace(basic_optimizer=basic, optimizer=DeepSpeedZeroOptimizer(**options))


def test_moments_that_deepspeed_finds_for_other_parameters_are_refused():
    check_moments(engine(round_robin_gradients=False))
    with pytest.raises(UnsupportedEngineError, match="round_robin_gradients false, found true"):
        check_moments(engine(round_robin_gradients=True))
