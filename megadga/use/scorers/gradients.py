"""Inner products and cosines of documents' gradients with those of targets."""

import functools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.arrays import FloatArray, IntArray
from megadga.data.numbered import NumberedDocuments, documents_of
from megadga.data.selection import SPLIT, read_scored
from megadga.data.targets import PADDING
from megadga.errors import ShardError, UnsupportedEngineError
from megadga.prepare.scoring.shards import digest_shards
from megadga.probes.choosing_tangents import own_parameters
from megadga.probes.gradients import ResidentDirection
from megadga.probes.hooks import hooked, modules_with_parameters
from megadga.probes.layouts import NO_LAYOUTS, Layouts
from megadga.probes.learning_layouts import learn_layouts
from megadga.use.scorers.influence import GradientSimilarities, TargetSet
from megadga.use.scorers.models import document_windows, load_model, padded

Gradient = dict[nn.Parameter, Tensor]
"""A gradient by parameter; those without one are missing."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_COARSE = 5e-2
"""Of bfloat16 and float16."""
_PAIR = 2
"""Sequences that layouts are learned from."""


@functools.lru_cache(maxsize=1)
def gradient_products(at: GradientSimilarities) -> "GradientProducts":
    """Load a checkpoint and find the targets' gradients there, once in a process.

    Raises:
        ConfigError: If the model cannot be loaded.
        ShardError: If a target is missing, damaged or changed, or has no documents.
        UnsupportedEngineError: If the model's derivatives along a direction are not those of its
            gradient.
    """
    model = load_model(at.model)
    return GradientProducts(
        model.decoder,
        [_read(target) for target in at.targets],
        device=model.device,
        context=at.context,
        sequence_length=at.model.sequence_length or model.sequence_length,
        batch_size=at.model.batch_size,
        cosine=at.similarity == "cosine",
    )


def _read(target: TargetSet) -> list[IntArray]:
    (folder,) = read_scored(target.path)
    if (found := digest_shards(folder)) != target.digest:
        raise ShardError(f"{target.path}: expected the shards {target.digest}, found {found}")
    documents = NumberedDocuments(folder, SPLIT)
    number = documents.lengths.size
    number = number if target.limit is None else min(number, target.limit)
    if not number:
        raise ShardError(f"{target.path}: expected documents in split {SPLIT}, found none")
    return [each for b in documents.read(np.arange(number)) for each in documents_of(b)]


@final
class GradientProducts:
    """Multiplies gradients of documents' mean losses with those of targets.

    Args:
        module: From tokens, shape ``(b, S + 1)``, to the losses of each next token, 0 at padding,
            shape ``(b, S)``; its sequences do not depend on each other. All its parameters are
            measured.
        targets: Documents of each.
        device: Where the module is.
        context: Id of the token that ends documents.
        sequence_length: Targets of a window at most (S).
        batch_size: Windows of a pass, at least 1.
        cosine: Whether the inner product is divided by both norms.

    Attributes:
        directions: Of each target, the mean over its documents of their mean losses' gradients.

    Raises:
        UnsupportedEngineError: If the module's derivatives along these are wrong.
    """

    def __init__(
        self,
        module: nn.Module,
        targets: Sequence[Sequence[IntArray]],
        *,
        device: torch.device,
        context: int,
        sequence_length: int,
        batch_size: int,
        cosine: bool,
    ) -> None:
        self._module = module
        self._device = device
        self._context = context
        self._length = sequence_length
        self._batch = batch_size
        self._cosine = cosine
        self._parameters = list(module.parameters())
        self.directions = [self._mean_gradient(documents) for documents in targets]
        self._norms = [_dot(each, each) ** 0.5 for each in self.directions]
        self._layouts = NO_LAYOUTS
        if not cosine:
            self._learn_layouts(targets[0])
            self._check(targets)

    def __call__(self, documents: Sequence[IntArray]) -> FloatArray:
        """Return the number of each document with each target, float64, shape ``(n, targets)``.

        A cosine is 0 where a gradient is.
        """
        if not self._cosine:
            return np.stack([self._along(d, documents) for d in self.directions], axis=1)
        found = np.zeros((len(documents), len(self.directions)))
        for row, tokens in zip(found, documents, strict=True):
            gradient = self._gradient([tokens])
            norm = _dot(gradient, gradient) ** 0.5
            for place, direction in enumerate(self.directions):
                if (scale := norm * self._norms[place]) > 0.0:
                    row[place] = _dot(gradient, direction) / scale
        return found

    def _mean_gradient(self, documents: Sequence[IntArray]) -> Gradient:
        gradient = self._gradient(documents)
        return {p: each / len(documents) for p, each in gradient.items()}

    def _gradient(self, documents: Sequence[IntArray]) -> Gradient:
        """Return the sum over some documents of their mean losses' gradients."""
        windows, owners, shares = self._windows(documents)
        total: Gradient = {}
        grad: Any = torch.autograd.grad  # annotated as if no gradient were ever None
        with self._trainable(trains=True):
            for begin in range(0, len(windows), self._batch):
                part = slice(begin, begin + self._batch)
                scales = torch.tensor(shares[owners[part]], device=self._device)
                loss = (self._losses(windows[part]).sum(1) * scales).sum()
                found: Sequence[Tensor | None] = grad(loss, self._parameters, allow_unused=True)
                for parameter, gradient in zip(self._parameters, found, strict=True):
                    if gradient is not None:
                        _add(total, parameter, gradient)
        return total

    def _along(self, direction: Gradient, documents: Sequence[IntArray]) -> FloatArray:
        """Return the derivative of each document's mean loss along a direction, shape ``(n,)``."""
        windows, owners, shares = self._windows(documents)
        found = np.zeros(len(documents))
        with self._trainable(trains=False):
            for part, slopes in self._slopes(direction, windows):
                np.add.at(found, owners[part], slopes * shares[owners[part]])
        return found

    def _slopes(
        self, direction: Gradient, windows: Sequence[IntArray]
    ) -> Iterator[tuple[slice, FloatArray]]:
        """Yield the derivative of each window's summed loss, micro-batch by micro-batch."""
        pieces = {p: piece.to(p.dtype) for p, piece in direction.items()}
        with hooked(self._module, ResidentDirection(pieces), self._layouts) as sequence_hooks:
            for begin in range(0, len(windows), self._batch):
                part = slice(begin, begin + self._batch)
                rows = windows[part]
                sums = sequence_hooks.begin(len(rows), self._device)
                self._losses(rows).sum().backward()
                found = sums.total()
                assert found is not None
                assert not sequence_hooks.unknown
                yield part, found.cpu().numpy()

    def _windows(
        self, documents: Sequence[IntArray]
    ) -> tuple[list[IntArray], IntArray, FloatArray]:
        """Return windows, the document of each, and one over the targets of each document."""
        windows, owners = document_windows(
            documents, context=self._context, sequence_length=self._length
        )
        targets = np.zeros(len(documents))
        np.add.at(targets, owners, [int((window[1:] >= 0).sum()) for window in windows])
        return windows, owners, 1.0 / targets

    def _losses(self, windows: Sequence[IntArray]) -> Tensor:
        return self._module(torch.as_tensor(padded(windows), device=self._device))

    @contextmanager
    def _trainable(self, *, trains: bool) -> Generator[None]:
        before = [parameter.requires_grad for parameter in self._parameters]
        try:
            for parameter in self._parameters:
                parameter.requires_grad_(trains)
            with torch.enable_grad():
                yield
        finally:
            for parameter, required in zip(self._parameters, before, strict=True):
                parameter.requires_grad_(required)

    def _learn_layouts(self, documents: Sequence[IntArray]) -> None:
        """Find out where windows lie in modules' outputs; one at a time where that is unknown."""
        if self._batch == 1:
            return
        windows, _, _ = self._windows(documents)
        longest = sorted(windows, key=len, reverse=True)[:1] * _PAIR
        found: Layouts = learn_layouts(
            [each for each in modules_with_parameters(self._module) if own_parameters(each[1])],
            torch.as_tensor(padded(longest), device=self._device),
            run=self._run,
            padding=PADDING,
        )
        if found.unknown:
            self._batch = 1
        else:
            self._layouts = found

    def _run(self, tokens: Tensor) -> None:
        with torch.no_grad():
            self._module(tokens)

    def _check(self, targets: Sequence[Sequence[IntArray]]) -> None:
        """Check that a target's mean derivative along its gradient is that gradient's square.

        Raises:
            UnsupportedEngineError: If it is not: a parameter is used where no hook sees it.
        """
        tolerance = _TOLERANCE.get(self._parameters[0].dtype, _COARSE)
        for documents, direction in zip(targets, self.directions, strict=True):
            expected = _dot(direction, direction)
            found = float(self._along(direction, documents).mean())
            if not abs(found - expected) <= tolerance * expected:
                raise UnsupportedEngineError(
                    f"influence: expected a derivative of {expected:.6g} along a target's "
                    f"gradient, its squared norm, found {found:.6g}: the model uses parameters "
                    "where no hook on the module that owns them sees it; score by cosine"
                )


def _add(total: Gradient, parameter: nn.Parameter, gradient: Tensor) -> None:
    if parameter in total:
        total[parameter] += gradient
    else:
        precise = torch.promote_types(gradient.dtype, torch.float32)
        total[parameter] = gradient.detach().to(precise).clone()


def _dot(left: Gradient, right: Gradient) -> float:
    """Return the inner product, added up in float64."""
    parts = [
        torch.dot(each.flatten(), right[parameter].flatten()).double()
        for parameter, each in left.items()
        if parameter in right
    ]
    return float(torch.stack(parts).sum()) if parts else 0.0
