"""Weights at which the domains' token frequencies are closest to the specific set's.

With ``q(v)`` the share of token ``v`` among the specific set's, and ``p_k(v)`` among domain k's,

    alpha = argmin KL(q || sum_k alpha_k p_k)   over distributions alpha:

the maximum-likelihood weights of interpolated language models (Jelinek and Mercer, 1980), here of
unigram models, by expectation maximisation. Data selection by n-grams (arXiv 2302.03169) fits the
same kind of models, to weight documents. Counts need no model: they are known before the first
step, when gradients say little but which tokens are frequent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import SequenceSet
from megadga.mixers.base import Mixtures
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.static import Static
from megadga.mixers.weights import MatchedWeights

TARGETS_PER_DOMAIN = 2**16
"""Targets that are counted of a domain at most."""
TARGETS_OF_DOMAINS = 2**25
"""Targets that are counted of all domains together, unless one sequence of each has more."""
TARGETS_PER_SPECIFIC_SET = 2**20
_TOLERANCE = 1e-4  # nats per token above the least divergence
_MAX_ITERATIONS = 2000


class MatchedOptions(MatchedWeights, RuleOptions):
    """Weights at which the domains' token frequencies are closest to the specific set's."""


@final
@dataclass(frozen=True, eq=False)
class TokenCounts:
    """How often tokens occur in a sample of a set.

    Attributes:
        ids: Those that occur, ascending, shape ``(n,)``.
        counts: How often, at least 1, shape ``(n,)``.
    """

    ids: IntArray
    counts: IntArray

    @property
    def frequencies(self) -> FloatArray:
        """Share of each token in the sample, shape ``(n,)``."""
        return self.counts / self.counts.sum()

    @property
    def unseen_mass(self) -> float:
        """Share of the set's tokens that do not occur in the sample, estimated (Good-Turing).

        The share of tokens that occur once in the sample (Good, 1953).
        """
        return float((self.counts == 1).sum() / self.counts.sum())


def count_tokens(sequences: SequenceSet, most: int) -> TokenCounts:
    """Count the trained targets of sequences that are spread evenly over a set.

    Args:
        sequences: The set.
        most: Targets at which to stop, but for one sequence at least.

    Raises:
        ShardError: If a shard is damaged.
    """
    total = sequences.num_sequences
    read = min(total, max(1, most // sequences.sequence_length))
    targets = sequences.windows(np.arange(read, dtype=np.int64) * total // read)[:, 1:]
    ids, counts = np.unique(targets[targets >= 0], return_counts=True)
    return TokenCounts(ids, counts)


def matched_weights(
    domains: Sequence[SequenceSet],
    specific: Sequence[SequenceSet],
    *,
    uniform_share: float = 0.05,
    importance: FloatArray | None = None,
    mixtures: Mixtures | None = None,
) -> FloatArray:
    """Return the weights that are matched to specific sets, mixed with uniform ones.

    Reads up to 65,536 tokens of each domain, fewer where there are more than 512 domains, and a
    million of each specific set.

    Args:
        domains: ``K`` of them.
        specific: At least one, of the same tokenizer.
        uniform_share: Share of uniform weights in the result, in ``[0, 1]``.
        importance: Of the specific sets, above 0; None: each counts the same, whatever its size.
        mixtures: Distributions over the domains to weight in their place; None: the domains.

    Returns:
        A distribution, over the domains or the mixtures, shape ``(K,)`` or ``(n,)``.

    Raises:
        ValueError: If there is no specific set, or ``uniform_share`` is out of range.
        ShardError: If a shard is damaged.
    """
    if not specific:
        raise ValueError("specific: expected at least one set, found none")
    if not 0.0 <= uniform_share <= 1.0:
        raise ValueError(f"uniform_share: expected 0 <= uniform_share <= 1, found {uniform_share}")
    most = min(TARGETS_PER_DOMAIN, TARGETS_OF_DOMAINS // len(domains))
    samples = [count_tokens(domain, most) for domain in domains]
    wanted = [count_tokens(each, TARGETS_PER_SPECIFIC_SET) for each in specific]
    shares = np.ones(len(specific)) if importance is None else importance
    matched = match_frequencies(samples, _average(wanted, shares / shares.sum()), mixtures)
    return (1.0 - uniform_share) * matched + uniform_share / matched.size


def match_frequencies(
    samples: Sequence[TokenCounts], wanted: FloatArray, mixtures: Mixtures | None = None
) -> FloatArray:
    """Return the distribution over domains whose token frequencies are closest to some others.

    A domain's frequencies are smoothed: what its sample lacks by estimate has the frequencies of
    all samples (Good-Turing, backing off to their mean). Tokens that are in no sample tell nothing
    of the weights, and are left out. The divergence of the result is at most 1e-4 nats above the
    least, unless 2,000 iterations do not come so close.

    Args:
        samples: Of the domains, ``K`` of them.
        wanted: Frequencies of tokens, by id, at least 0, shape ``(V,)``.
        mixtures: Distributions over the domains to weight in their place; None: the domains.

    Returns:
        Shape ``(K,)``, or ``(n,)`` with mixtures. Uniform if no wanted token is in a sample.
    """
    rows = np.repeat(np.arange(len(samples)), [sample.ids.size for sample in samples])
    ids = np.concatenate([sample.ids for sample in samples])
    entries = np.concatenate([sample.frequencies for sample in samples])
    size = max(wanted.size, int(ids.max()) + 1)
    pooled = np.bincount(ids, weights=entries, minlength=size) / len(samples)
    unseen = np.array([sample.unseen_mass for sample in samples])
    target = np.zeros(size)
    target[: wanted.size] = wanted
    target[pooled == 0.0] = 0.0
    number = len(samples) if mixtures is None else len(mixtures.names)
    weights = np.full(number, 1.0 / number)
    if not target.any():
        return weights
    target /= target.sum()
    kept = target[ids] > 0.0
    rows, ids, entries = rows[kept], ids[kept], entries[kept] * (1.0 - unseen[rows[kept]])
    for _ in range(_MAX_ITERATIONS):
        over_domains = weights if mixtures is None else mixtures.mix(weights)
        mixed = np.bincount(ids, weights=over_domains[rows] * entries, minlength=size)
        mixed += (over_domains @ unseen) * pooled
        ratios = np.divide(target, mixed, out=np.zeros(size), where=target > 0.0)
        gains = np.bincount(rows, weights=entries * ratios[ids], minlength=len(samples))
        gains += unseen * (pooled @ ratios)
        if mixtures is not None:
            shares = gains[mixtures.indices] * mixtures.data
            gains = np.bincount(mixtures.rows, weights=shares, minlength=number)
        # The divergence is convex: it is at most log(max gains) above its least.
        if np.log(gains.max()) <= _TOLERANCE:
            break
        weights = weights * gains
        weights /= weights.sum()
    return weights


def _average(samples: Sequence[TokenCounts], shares: FloatArray) -> FloatArray:
    """Return the mean frequencies of sets, by id."""
    mean = np.zeros(max(int(sample.ids[-1]) for sample in samples) + 1)
    for sample, share in zip(samples, shares, strict=True):
        mean[sample.ids] += share * sample.frequencies
    return mean


def _make_matched(options: MatchedOptions, context: RuleContext) -> Static:
    return Static(context.weights((), options))


RULES = (Rule(MatchedOptions, _make_matched),)
