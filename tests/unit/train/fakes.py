"""Stand-ins for what training talks to: an engine on one process, ranks that are not there."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megadga.arrays import FloatArray
from megadga.model.losses import inputs_and_targets, target_mask
from megadga.plugin import Batch, BatchIndices
from megadga.train.ranks import Ranks
from megadga.train.storage import Storage
from megadga.train.waiting import Waiting

VOCABULARY = 11


class BigramModel(nn.Module):
    """Predicts each token from the one before: one loss per token."""

    def __init__(self) -> None:
        super().__init__()
        scores = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1))
        self.scores = nn.Parameter(scores)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, targets = inputs_and_targets(tokens)
        losses = nn.functional.cross_entropy(
            self.scores[inputs].flatten(0, 1), targets.flatten(), reduction="none"
        )
        return losses.view(tokens.shape[0], -1)


@dataclass
class FakeEngine:
    """Accumulates like DeepSpeed: gradients of the mean, one SGD step a window.

    Attributes:
        accumulation: Micro-batches of an optimizer step.
        rates: Learning rate of each optimizer step.
        norm: What ``get_global_grad_norm`` returns.
        loss_scale: In fp16; 1 else.
    """

    accumulation: int = 1
    micro_batch_size: int = 2
    rates: tuple[float, ...] = (0.1, 0.2)
    norm: float | None = None
    loss_scale: float = 1.0
    module: nn.Module = field(default_factory=BigramModel)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data_parallel_group: dist.ProcessGroup = field(init=False)  # there is none
    micro_steps: int = 0

    def __call__(self, tokens: Tensor, **options: Any) -> Any:
        return self.module(tokens, **options)

    def backward(self, loss: Tensor) -> None:
        (loss / self.accumulation).backward()

    def step(self) -> None:
        rate = self.get_lr()[0]
        self.micro_steps += 1
        if self.micro_steps % self.accumulation == 0:
            with torch.no_grad():
                for parameter in self.module.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(rate * parameter.grad)
                    parameter.grad = None

    def train_batch_size(self) -> int:
        return self.accumulation * self.micro_batch_size

    def train_micro_batch_size_per_gpu(self) -> int:
        return self.micro_batch_size

    def gradient_accumulation_steps(self) -> int:
        return self.accumulation

    def get_lr(self) -> list[float]:
        return [self.rates[self.micro_steps // self.accumulation]]

    def fp16_enabled(self) -> bool:
        return self.loss_scale != 1.0

    def _get_optimizer_loss_scale(self) -> float:
        return self.loss_scale

    def get_global_grad_norm(self) -> float | None:
        return self.norm

    def save_checkpoint(self, save_dir: str, tag: str, client_state: dict[str, Any]) -> bool:
        raise NotImplementedError

    def load_checkpoint(self, load_dir: str, tag: str) -> tuple[str | None, dict[str, Any]]:
        raise NotImplementedError


@dataclass(frozen=True)
class LoneRank:
    """One rank of a world whose other ranks contribute ``others`` to every sum."""

    rank: int = 0
    world_size: int = 1
    others: float = 0.0

    def merged(self, numbers: FloatArray) -> FloatArray:
        return numbers + self.others

    def object_of_first_rank(self, value: Any) -> Any:
        return value

    def objects(self, value: Any) -> list[Any]:
        return [value]


def storage_of(folder: Path, ranks: Ranks) -> Storage:
    """The file system of a run on these ranks, which it does not wait for."""
    return Storage(
        folder,
        ranks=ranks,
        waiting=Waiting(pauses=False, limit_s=20.0, limit_key="the limit"),
        stop_requested=lambda: False,
        report=lambda _: None,
    )


def batch(
    tokens: Tensor,
    *,
    domains: list[int],
    rows: list[list[int]],
    step: int = 1,
    dialogues: bool = False,
) -> Batch:
    """A batch of micro-batches ``(accumulation, micro, S + 1)`` in a global batch ``domains``.

    With ``dialogues`` it is the whole global batch, and the plan has its numbers of targets.
    """
    global_domains, row_array = np.array(domains), np.array(rows)
    targets = np.empty_like(global_domains)
    if dialogues:
        targets[row_array] = [target_mask(each).sum(-1).tolist() for each in tokens]
    indices = BatchIndices(
        step=step,
        domains=global_domains[row_array],
        sequences=np.zeros_like(row_array),
        rows=row_array,
        global_domains=global_domains,
        global_sequences=np.zeros_like(global_domains),
        global_targets=targets if dialogues else None,
    )
    return Batch(indices, tokens)
