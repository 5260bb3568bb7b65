"""Scores documents by a model's loss on them: the negative logarithm of perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.prepare.scoring.scorers import Measured, joined
from megadga.use.scorers.models import ScoringModel, document_windows, load_model, padded


@final
@dataclass(frozen=True)
class DocumentLosses:
    """Mean losses of documents; a ``Measure``.

    Attributes:
        model: The model.
        context: Id of the token that ends documents.
    """

    model: ScoringModel
    context: int

    def __call__(self, documents: Sequence[IntArray]) -> FloatArray:
        """Return the mean cross-entropy of each document's targets in nats, shape ``(n,)``."""
        model = load_model(self.model)
        length = self.model.sequence_length or model.sequence_length
        windows, owners = document_windows(documents, context=self.context, sequence_length=length)
        # Windows of about equal length together: little padding.
        order = np.argsort([-window.size for window in windows], kind="stable")
        nats, targets = np.zeros(len(documents)), np.zeros(len(documents))
        for begin in range(0, order.size, self.model.batch_size):
            batch = order[begin : begin + self.model.batch_size]
            places: list[int] = batch.tolist()
            rows = padded([windows[place] for place in places])
            losses = model.token_losses(rows)
            np.add.at(nats, owners[batch], losses.sum(axis=1))
            np.add.at(targets, owners[batch], (rows[:, 1:] >= 0).sum(axis=1))
        return nats / targets


@final
@dataclass(frozen=True)
class PerplexityScorer:
    """Scores documents by ``-log`` of their perplexity, the mean loss per token; a ``Scorer``.

    Sampling at temperature 1 is in proportion to one over perplexity.

    Attributes:
        measure: Finds the losses.
    """

    measure: DocumentLosses

    @property
    def description(self) -> str:
        """What the scores depend on, beside the documents."""
        return f"perplexity: {self.measure.model.description}"

    @property
    def relative(self) -> bool:
        """A loss depends on its document alone."""
        return False

    @property
    def passes(self) -> Sequence[DocumentLosses]:
        """One pass."""
        return (self.measure,)

    def finish(self, measured: Sequence[Measured]) -> FloatArray:
        """Return the scores of all documents."""
        (losses,) = measured
        return -joined(losses)
