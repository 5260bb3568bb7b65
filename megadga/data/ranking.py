"""Which documents are kept, by their scores: the highest ones, tiers of them, or a sample.

A budget is one of tokens, documents have lengths: the documents are laid end to end, highest score
first, and each belongs where its middle falls. So a share is met within half a document.
"""

from typing import Literal

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.permutation import RandomStream, address_keys
from megadga.data.scores import ScoreArray
from megadga.data.targets import BoolArray


def divide_by_score(scores: ScoreArray, lengths: IntArray, tiers: int) -> IntArray:
    """Return the tier of each document, in ``[0, tiers)``: 0 has the highest scores.

    Tiers have equally many tokens, up to half a document at either end. Equal scores are in the
    order of the documents.

    Args:
        scores: Finite, shape ``(n,)``.
        lengths: Tokens of each document, at least 1, shape ``(n,)``.
        tiers: At least 1.
    """
    return np.minimum((_places(scores, lengths) * tiers).astype(np.int64), tiers - 1)


Part = Literal["highest", "middle", "lowest"]
"""Which documents are kept, by their scores."""


def keep_by_score(
    scores: ScoreArray, lengths: IntArray, share: float, part: Part = "highest"
) -> BoolArray:
    """Return which documents are among a share of all tokens.

    Args:
        scores: Finite, shape ``(n,)``.
        lengths: Tokens of each document, at least 1, shape ``(n,)``.
        share: In (0, 1].
        part: Those of the highest scores, of the lowest, or around the median token.
    """
    match part:
        case "highest":
            return _places(scores, lengths) < share
        case "lowest":
            return _places(-scores, lengths) < share
        case "middle":
            return np.abs(_places(scores, lengths) - 0.5) < share / 2


def _places(scores: ScoreArray, lengths: IntArray) -> FloatArray:
    """Return where each document's middle is, by descending score, as a share of all tokens."""
    order = np.argsort(-scores, kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    places = np.empty(scores.shape)
    # In halves of tokens, exactly, before the one division.
    places[order] = (2 * ends - lengths[order]) / (2 * ends[-1] if ends.size else 1)
    return places


def perturb_scores(
    scores: ScoreArray, *, temperature: float, seed: int, domain: int
) -> FloatArray:
    """Return keys by which the highest are a sample without replacement, shape ``(n,)``.

    ``score / temperature + G`` with independent standard Gumbel numbers ``G``: whichever documents
    have been taken, each other one has the highest key with a probability in proportion to
    ``exp(score / temperature)`` (Gumbel top-k; Kool, van Hoof, Welling, arXiv 1903.06059). The
    number of document ``j`` is a function of ``(seed, domain, j)`` alone: it does not change when
    documents are appended. For a sample of its own in each epoch, use a seed for each.

    Args:
        scores: Logarithms of unnormalised probabilities, shape ``(n,)``.
        temperature: Above 0; the higher, the more uniform.
        seed: In ``[0, 2**64)``.
        domain: Number that addresses the domain, in ``[0, 2**64)``.
    """
    keys = address_keys(seed, RandomStream.KEPT_DOCUMENTS, domain, np.arange(scores.size))
    # The 53 highest bits, in the middle of their interval: in (0, 1), never at an end.
    uniform = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return scores.astype(np.float64) / temperature - np.log(-np.log(uniform))
