from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from megadga.model.compiling import compile_module, compiled


@pytest.fixture(autouse=True)
def _limit_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    dynamo: Any = import_module("torch._dynamo.config")
    with dynamo.patch(recompile_limit=8):
        yield


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.weight * numbers


def doubled(numbers: torch.Tensor) -> torch.Tensor:
    return 2.0 * numbers


def test_a_function_is_compiled_for_more_shapes_than_torch_allows_by_default():
    found = compiled(doubled, backend="eager")
    for size in range(2, 22):
        assert found(torch.ones(size)).tolist() == [2.0] * size


def test_a_module_is_compiled_likewise_and_keeps_the_names_of_its_parameters():
    module = Scaled()
    compile_module(module, backend="eager")
    for size in range(2, 22):
        assert module(torch.ones(size)).tolist() == [2.0] * size
    assert list(module.state_dict()) == ["weight"]


def test_what_cannot_be_compiled_whole_is_an_error_and_does_not_run_in_parts():
    def printed(numbers: torch.Tensor) -> torch.Tensor:
        return numbers * numbers.sum().item() if numbers.sum() > 0.0 else numbers

    with pytest.raises(RuntimeError, match="branch"):
        compiled(printed, backend="eager")(torch.ones(3))
