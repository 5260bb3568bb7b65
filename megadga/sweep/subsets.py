"""Subsets of domains that proxies repeat as often as the run that a sweep is for repeats all.

A proxy of few tokens repeats nothing, and prefers small domains that the run itself would have to
read many times. Zhou et al. (arXiv 2606.07597) match the repetition instead: a proxy of a
hundredth of the tokens reads a hundredth of each domain.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from megadga.arrays import TokenArray
from megadga.data.create import create_domain
from megadga.data.domain import Domain
from megadga.errors import ConfigError

_CHUNK = 1 << 20


def write_subset(folder: Path, train: Domain, valid: Domain | None, share: float) -> None:
    """Write a domain's first documents, up to a share of its tokens, and its validation split.

    Documents are shuffled when shards are written: the first are a random sample. The last one is
    whole.

    Args:
        folder: Must not exist.
        train: The training split.
        valid: The validation split; None: there is none.
        share: In ``(0, 1)``.

    Raises:
        ConfigError: If that is less than a window, or the domain is one of dialogues.
        ShardError: If it cannot be read or written.
    """
    if train.trained is not None:
        raise ConfigError(
            f"match_repetition: expected domains of texts, found dialogues in {train.name}"
        )
    tokens = math.ceil(share * train.num_tokens)
    if tokens <= train.sequence_length:
        raise ConfigError(
            f"match_repetition: expected at least {train.sequence_length + 1} tokens of each "
            f"domain, one window, found {tokens} of {train.num_tokens:,} in {train.name}: take "
            "more steps, or fewer target_tokens"
        )
    splits = {"train": _documents(train, tokens)}
    if valid is not None:
        splits["valid"] = _documents(valid, valid.num_tokens)
    create_domain(folder, train.tokenizer, splits)


def write_subsets(
    root: Path,
    train: tuple[Domain, ...],
    valid: tuple[Domain, ...],
    share: float,
    *,
    report: Callable[[str], None],
) -> None:
    """Write the subset of each domain that is not there yet.

    Args:
        root: Has a folder for each domain.
        train: Training splits.
        valid: Validation splits of those that have one.
        share: In ``(0, 1)``.
        report: Called with a line, if any is written.

    Raises:
        ConfigError: If a subset is less than a window, or a domain is one of dialogues.
        ShardError: If one cannot be read or written.
    """
    held_out = {domain.name: domain for domain in valid}
    missing = [domain for domain in train if not (root / domain.name).exists()]
    if missing:
        report(f"{root}: writing {share:.3%} of the tokens of {len(missing)} domains")
    for domain in missing:
        write_subset(root / domain.name, domain, held_out.get(domain.name), share)


def _documents(domain: Domain, tokens: int) -> Iterator[TokenArray]:
    """Yield a domain's first documents, until they have so many tokens."""
    left: list[TokenArray] = []
    written = 0
    for start in range(0, domain.num_tokens, _CHUNK):
        chunk = domain.tokens(start, min(start + _CHUNK, domain.num_tokens))
        ends = np.flatnonzero(chunk == domain.tokenizer.eod) + 1
        for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            document = np.concatenate([*left, chunk[begin:end]])
            left = []
            yield document
            written += document.size
            if written >= tokens:
                return
        left.append(chunk[int(ends[-1]) if ends.size else 0 :])
    if sum(each.size for each in left):  # a last document without EOD
        yield np.concatenate(left)
