"""Made-up domains."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from megadga.data.create import create_domain
from megadga.data.domain import Domain
from megadga.data.manifest import TokenizerIdentity

from .case import Case


def write_tokens(folder: Path, case: Case) -> None:
    """Write one domain of random tokens, enough for a step and an update, to ``folder``."""
    largest = max(2 * case.global_batch, case.total_sequences)
    num_tokens = 4 * largest * case.sequence_length
    ids = np.random.default_rng(0).integers(case.vocabulary_size, size=num_tokens)
    tokenizer = TokenizerIdentity(
        "sentencepiece", "0" * 64, vocab_size=case.vocabulary_size, eod=2
    )
    create_domain(folder, tokenizer, {"train": [ids]})


def cut(domain: Domain, parts: int) -> list[Domain]:
    """Divide a domain evenly into ``parts`` domains."""
    bounds = np.linspace(domain.begin, domain.end, parts + 1).astype(int).tolist()
    return [
        replace(domain, name=f"d{i:03d}", begin=begin, end=end)
        for i, (begin, end) in enumerate(pairwise(bounds))
    ]
