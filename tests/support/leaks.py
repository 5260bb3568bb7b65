"""Domains and a specific set of which a known part stands in one of them."""

from pathlib import Path

import numpy as np

from megadga.arrays import TokenArray
from megadga.data.create import create_domain
from megadga.data.manifest import TokenizerIdentity

IDENTITY = TokenizerIdentity(kind="sentencepiece", fingerprint="e" * 64, vocab_size=50_000, eod=2)


def random_document(*address: int, length: int = 40) -> TokenArray:
    """Tokens that no other address shares an n-gram of three with, and EOD."""
    rng = np.random.default_rng(address)
    return np.append(rng.integers(3, 50_000, size=length), IDENTITY.eod)


def write_leak(root: Path) -> Path:
    """Write ``root/domains/{clean,leaky}`` and ``root/specific``.

    The specific set's validation split has four documents of 40 tokens and one of 5. The domain
    ``leaky`` holds all of the third and the first ten tokens of the fourth; the set's own training
    split, tokens 20 to 33 of the first.
    """
    held_out = [random_document(0, index) for index in range(4)] + [
        random_document(0, 4, length=5)
    ]
    clean = [random_document(1, index) for index in range(20)]
    leaky = [random_document(2, index) for index in range(20)]
    leaky[7] = np.concatenate([leaky[7][:-1], held_out[2]])
    leaky[9] = np.append(held_out[3][:10], leaky[9])
    own = [np.concatenate([held_out[0][20:34], random_document(3, 0)])]
    create_domain(root / "domains" / "clean", IDENTITY, {"train": clean}, shard_tokens=100)
    create_domain(root / "domains" / "leaky", IDENTITY, {"train": leaky}, shard_tokens=100)
    splits = {"train": own, "valid": held_out}
    create_domain(root / "specific", IDENTITY, splits, shard_tokens=60)
    return root
