"""Mean loss, bits per byte and perplexity of a model on a set."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from megadga.data.targets import PADDING, unmark_targets
from megadga.prepare.progress import Stages, no_progress
from megadga.use.loading import CausalLm
from megadga.use.sets import EvaluatedSet
from megadga.use.text import TextBytes


@dataclass(frozen=True)
class SetScore:
    """How well a model predicts a set.

    Attributes:
        name: Name of the set.
        split: Split of shards; None: documents.
        sequence_length: Targets of a window (S).
        windows: Number of windows.
        tokens: Number of targets.
        nats: Sum of the targets' losses.
        text_bytes: Bytes of the text of the targets, in UTF-8; None: without a tokenizer.
        bytes_of: How they are known: of whole documents, or of decoded tokens.
    """

    name: str
    split: str | None
    sequence_length: int
    windows: int
    tokens: int
    nats: float
    text_bytes: int | None
    bytes_of: Literal["documents", "tokens"] | None

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where it is too large for a number."""
        return math.exp(self.loss) if not self.loss > 700.0 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Sum of the losses in bits, per byte of text; None: without text."""
        return self.nats / math.log(2.0) / self.text_bytes if self.text_bytes else None

    def as_json(self) -> dict[str, Any]:
        """Return everything, JSON-serializable; None stands for what is not finite."""
        numbers = {"loss": self.loss, "bits_per_byte": self.bits_per_byte}
        numbers |= {"perplexity": self.perplexity, "nats": self.nats}
        return {
            "set": self.name,
            "split": self.split,
            "sequence_length": self.sequence_length,
            "windows": self.windows,
            "tokens": self.tokens,
            "bytes": self.text_bytes,
            "bytes_of": self.bytes_of,
            **{k: v if v is None or math.isfinite(v) else None for k, v in numbers.items()},
        }


def score_set(
    model: CausalLm, scored: EvaluatedSet, *, batch_size: int, stages: Stages = no_progress
) -> SetScore:
    """Score a set.

    Args:
        model: The model.
        scored: The set.
        batch_size: Windows of a forward pass, at least 1.
        stages: Reports progress.

    Raises:
        ConfigError: If documents cannot be read, or memory does not suffice.
        ShardError: If a shard is damaged.
    """
    decoded = None
    if not scored.knows_bytes and model.found.tokenizer is not None:
        decoded = TextBytes(model.found.tokenizer)
    windows = tokens = read_bytes = 0
    nats = 0.0
    for each in scored.windows(batch_size, stages):
        nats += float(model.token_losses(each.tokens).sum())
        windows += len(each.tokens)
        tokens += int((each.tokens[:, 1:] >= 0).sum())
        read_bytes += each.text_bytes
        if decoded is not None:
            for row in each.tokens:
                decoded.add(*unmark_targets(row[row != PADDING]))
    known = read_bytes if scored.knows_bytes else None
    return SetScore(
        scored.name,
        scored.split,
        scored.sequence_length,
        windows,
        tokens,
        nats,
        known if decoded is None else decoded.total(),
        ("documents" if scored.knows_bytes else None) if decoded is None else "tokens",
    )
