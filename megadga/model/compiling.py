"""Compilation of functions and modules by torch, whole, and for each shape of arguments apart.

Nothing is compiled for shapes in general, so bits do not depend on which shape came first. A run's
batches, evaluations and probes have more shapes than the eight that torch compiles a function for:
this process may compile for `MOST_SHAPES`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
from torch import nn

MOST_SHAPES = 64

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def compiled(function: AnyFunction, *, backend: str) -> AnyFunction:
    """Return a function that compiles another when it is called with a new shape.

    Args:
        function: Of tensors.
        backend: Of ``torch.compile``.
    """
    return cast("Any", torch.compile)(function, **_options(backend))


def compile_module(module: nn.Module, *, backend: str) -> None:
    """Let a module compile itself when it is called with a new shape.

    Args:
        module: It stays what it is, and its parameters keep their names.
        backend: Of ``torch.compile``.
    """
    module.compile(**_options(backend))


def _options(backend: str) -> dict[str, Any]:
    dynamo: Any = import_module("torch._dynamo.config")  # a second, where nothing is compiled
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_SHAPES)
    return {"fullgraph": True, "dynamic": False, "backend": backend}
