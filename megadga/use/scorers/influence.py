"""Scores documents by their influence on a target: gradients along that of the target, as in LESS.

LESS (Xia et al., "LESS: Selecting Influential Data for Targeted Instruction Tuning", arXiv
2402.04333, definition of influence under Adam) sums over checkpoints ``i`` of a warm-up run, at
the learning rate ``eta_i`` there,

    Inf(d, T) = sum_i eta_i cos(Gamma(d, theta_i), mean over t in T of grad l(t, theta_i))

with ``l`` an example's mean loss, and takes the largest of several targets'. Here that is computed
as it stands, with these differences:

- of all parameters, not of low-rank adapters;
- exactly, without random projection to 8,192 numbers: the targets' gradients are held, a
  document's is formed, multiplied with them and dropped. So nothing is stored, and the targets
  have to be known when documents are scored;
- ``Gamma`` is the document's gradient itself, not what Adam would make of it, which needs the
  optimizer's state at every checkpoint;
- the learning rates are divided by their sum: scores are cosines, in [-1, 1];
- the cosine is with the mean gradient of a target's examples, as in the paper's equation; their
  code averages cosines with each of them.

``similarity="dot"`` leaves the norms out: ``<g_d, v>``, the first-order decrease of the target's
loss by a step on the document. That needs no gradient of a document: forward hooks know how each
module's output moves along ``v`` (``probes.hooks``), and one backward pass without weight
gradients has the inner products of all windows of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.prepare.scoring.scorers import Measured, joined
from megadga.use.scorers.models import ScoringModel, libraries_loading, load_model

Similarity = Literal["cosine", "dot"]


@final
@dataclass(frozen=True)
class TargetSet:
    """Shards whose loss a document shall lower; picklable.

    Attributes:
        path: A folder of one domain.
        digest: Of its training shards.
        limit: Documents that are read, from the first; None: all.
    """

    path: Path
    digest: str
    limit: int | None = None


@final
@dataclass(frozen=True)
class GradientSimilarities:
    """Similarities of documents' gradients with targets' at one checkpoint; a ``Measure``.

    Attributes:
        model: The checkpoint.
        targets: At least one.
        context: Id of the token that ends documents.
        similarity: Which number.
    """

    model: ScoringModel
    targets: tuple[TargetSet, ...]
    context: int
    similarity: Similarity = "cosine"

    def __call__(self, documents: Sequence[IntArray]) -> FloatArray:
        """Return each document's similarity with each target, shape ``(n, targets)``."""
        load_model(self.model)  # before what prints, as it is imported
        with libraries_loading():
            from megadga.use.scorers.gradients import gradient_products  # noqa: PLC0415
        return gradient_products(self)(documents)


@final
@dataclass(frozen=True)
class InfluenceScorer:
    """Scores documents by LESS's influence on the target that they help most; a ``Scorer``.

    Attributes:
        checkpoints: At least one, of one run.
        learning_rates: That of each, above 0.
    """

    checkpoints: tuple[GradientSimilarities, ...]
    learning_rates: tuple[float, ...]

    @property
    def description(self) -> str:
        """What the scores depend on, beside the documents."""
        first = self.checkpoints[0]
        rates = " ".join(f"{rate:.6g}" for rate in self.learning_rates)
        models = "; ".join(each.model.description for each in self.checkpoints)
        targets = " ".join(
            each.digest if each.limit is None else f"{each.digest}[:{each.limit}]"
            for each in first.targets
        )
        return f"influence: {first.similarity} on {targets}, rates {rates}, {models}"

    @property
    def relative(self) -> bool:
        """A document's influence depends on no other document."""
        return False

    @property
    def passes(self) -> Sequence[GradientSimilarities]:
        """One pass a checkpoint: one model is in memory at a time."""
        return self.checkpoints

    def finish(self, measured: Sequence[Measured]) -> FloatArray:
        """Return the scores of all documents."""
        return combine_checkpoints(
            np.stack([joined(each) for each in measured]), np.array(self.learning_rates)
        )


def combine_checkpoints(similarities: FloatArray, learning_rates: FloatArray) -> FloatArray:
    """Return the influence of each document, shape ``(n,)``: that on the target it helps most.

    Args:
        similarities: At each checkpoint with each target, shape ``(checkpoints, n, targets)``.
        learning_rates: That of each checkpoint, above 0, shape ``(checkpoints,)``.
    """
    weights = learning_rates / learning_rates.sum()
    return np.einsum("c,cnt->nt", weights, similarities).max(axis=1)
