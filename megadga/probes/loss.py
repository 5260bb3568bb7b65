"""From a module and tokens to the loss that is differentiated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from megadga.data.targets import PADDING
from megadga.model.losses import inputs_and_targets, target_mask

Loss = Callable[[nn.Module, Tensor], Any]
"""From a module and tokens ``(b, S + 1)`` to the mean loss over their targets, a scalar in nats
per token; padding and tokens marked as inputs alone are no targets (see ``inputs_and_targets``). A
loss that leaves out other targets too returns what it counts: a pair of sums and numbers of
targets, of the whole micro-batch (scalars) or of each sequence, ``(b,)``; or of losses and a mask,
one a token, ``(b, S)``."""


@dataclass(frozen=True, eq=False)
class CountedLoss:
    """A micro-batch's losses, added up over the targets that a loss counts.

    Attributes:
        total: Their sum, a scalar that can be differentiated.
        counts: Targets of each sequence, shape ``(b,)``; or of all together, shape ``(1,)``.
    """

    total: Tensor
    counts: Tensor


def as_counted(returned: Any, num_sequences: int) -> CountedLoss | None:
    """Return what a loss says of its own targets; None if it is a mean over all of them.

    Args:
        returned: By a ``Loss``, or what is returned here.
        num_sequences: Of the micro-batch (b).

    Raises:
        ValueError: If it is neither a scalar nor a pair as ``Loss`` describes.
    """
    if isinstance(returned, CountedLoss):
        return returned
    if isinstance(returned, Tensor) and returned.ndim == 0:
        return None
    pair = returned if isinstance(returned, tuple) else ()
    if len(pair) == 2 and isinstance(pair[0], Tensor) and isinstance(pair[1], Tensor | int):
        losses, counted = pair[0], torch.as_tensor(pair[1], device=pair[0].device)
        precise = losses.to(torch.promote_types(losses.dtype, torch.float32))
        if losses.shape == counted.shape:
            if losses.ndim == 0:
                return CountedLoss(precise, counted.reshape(1).double())
            if losses.shape[0] == num_sequences and losses.ndim == 1:
                return CountedLoss(precise.sum(), counted.double())
            if losses.shape[0] == num_sequences and losses.ndim == 2:
                mask = counted.bool()
                return CountedLoss(precise.masked_fill(~mask, 0.0).sum(), mask.sum(1).double())
    raise ValueError(
        "loss: expected a scalar mean over the targets, or (sums, counts) of shape () or "
        f"({num_sequences},), or (losses, mask) of shape ({num_sequences}, S), found "
        f"{_described(returned)}"
    )


def _described(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return f"shape {tuple(returned.shape)}"
    if isinstance(returned, tuple):
        return f"({', '.join(map(_described, returned))})"
    return type(returned).__name__


class _WatchedTargets(TorchFunctionMode):
    """Notes which targets a cross-entropy counts that is taken meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at a cross-entropy's arguments, and call whatever was called."""
        kwargs = kwargs or {}
        if func in (functional.cross_entropy, functional.nll_loss):
            bound = signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            target, ignored = bound.arguments["target"], bound.arguments["ignore_index"]
            if bound.arguments["reduction"] == "mean" and bound.arguments["weight"] is None:
                self.counted.append((bound.arguments["input"], target != ignored))
        return func(*args, **kwargs)


def watching_targets(loss: Loss) -> Loss:
    """Return a loss that says how many targets its cross-entropy counts.

    That is what many losses are a mean over that leave out targets by themselves, by an
    ``ignore_index``.

    Args:
        loss: Returns a scalar.
    """

    def watched(module: nn.Module, tokens: Tensor) -> Any:
        with _WatchedTargets() as targets:
            mean = loss_of(loss(module, tokens), "loss")
        counted = [each for each in targets.counted if each[1].numel() % len(tokens) == 0]
        if len(counted) != 1 or not isinstance(mean, Tensor) or mean.ndim:
            return mean
        ((logits, mask),) = counted
        counts = mask.reshape(len(tokens), -1).sum(1).double()
        if not mask.any():  # a mean over nothing, but what is added up is 0
            return CountedLoss(logits.sum() * 0.0, counts)
        precise = mean.to(torch.promote_types(mean.dtype, torch.float32))
        return CountedLoss(precise * counts.sum().to(precise.dtype), counts)

    return watched


def mean_loss(module: nn.Module, tokens: Tensor) -> Any:
    """Return a module's mean loss over the targets of tokens.

    Args:
        module: Returns that mean itself, a scalar, as ``cross_entropy`` does by default; or one
            loss a token, shape ``(b, S)``; or a pair as ``Loss`` describes, which is passed on; or
            an object whose ``loss`` is one of these, such as a ``ModelOutput`` of Hugging Face's
            ``transformers``.
        tokens: Shape ``(b, S + 1)``.

    Raises:
        ValueError: If the module returns something else.
    """
    losses = loss_of(module(tokens), "module")
    if not isinstance(losses, Tensor) or losses.ndim == 0:
        return losses
    counted = target_mask(tokens)
    if losses.shape != counted.shape:
        raise ValueError(
            f"module: expected a scalar loss or one loss a token, shape {tuple(counted.shape)}, "
            f"found shape {tuple(losses.shape)}"
        )
    precise = losses.to(torch.promote_types(losses.dtype, torch.float32))
    return precise.masked_fill(~counted, 0.0).sum() / counted.sum()


def loss_of(returned: Any, what: str) -> Any:
    """Return a loss as a tensor, or as it counts its targets: what was returned, or its ``loss``.

    Args:
        returned: By a module or a loss function.
        what: Which of these; for the message.

    Raises:
        ValueError: If there is nothing in it to be the loss.
    """
    if _may_be_loss(returned):
        return returned
    found = returned.get("loss") if isinstance(returned, Mapping) else None
    found = getattr(returned, "loss", found)
    if _may_be_loss(found):
        return found
    kind = type(returned).__name__
    described = f"a {kind} of {len(returned)}" if isinstance(returned, tuple) else f"a {kind}"
    if hasattr(returned, "loss") or isinstance(returned, Mapping):
        described += " without one (is it called without labels?)"
    raise ValueError(
        f"{what}: expected a tensor of losses, or an object with one as its loss, found "
        f"{described}"
    )


def _may_be_loss(value: Any) -> bool:
    """Tell whether this is a tensor, or what ``as_counted`` may take for a loss with counts."""
    match value:
        case Tensor() | CountedLoss():
            return True
        case (Tensor() as losses, Tensor() | int() as counted):
            return losses.shape == torch.as_tensor(counted).shape
        case _:
            return False


def causal_lm_loss(module: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean loss of a causal language model of Hugging Face's ``transformers``.

    Padding changes nothing: it follows all tokens of its sequence, where attention does not look.

    Args:
        module: Called with ``input_ids`` and ``use_cache``, returns an object with ``logits`` of
            shape ``(b, S, V)``.
        tokens: Shape ``(b, S + 1)``.
    """
    inputs, targets = inputs_and_targets(tokens)
    outputs: Any = module(input_ids=inputs, use_cache=False)
    logits: Tensor = outputs.logits
    precise = torch.promote_types(logits.dtype, torch.float32)
    return functional.cross_entropy(
        logits.flatten(0, 1).to(precise), targets.flatten(), ignore_index=PADDING
    )
