"""Shards of planted text: what a model can learn of them, memorise or copy is known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megadga.arrays import TokenArray
from megadga.data.create import create_domain
from tests.support.shards import TOKENIZER, VOCABULARY

_LENGTH = 24


def documents(taste: int, split: int, number: int) -> list[TokenArray]:
    """Documents whose tokens are drawn by one distribution.

    Args:
        taste: Which one.
        split: Documents of different splits are different.
        number: Of documents, of 24 tokens and EOD.
    """
    liking = np.random.default_rng(taste).dirichlet(np.full(VOCABULARY, 0.1))
    draws = np.random.default_rng((taste, split)).choice(
        VOCABULARY, size=(number, _LENGTH), p=liking
    )
    return [np.append(tokens, TOKENIZER.eod) for tokens in draws]


def plant(folder: Path, train: Sequence[TokenArray], valid: Sequence[TokenArray]) -> None:
    """Write a domain, or specific set, of two splits."""
    create_domain(folder, TOKENIZER, {"train": train, "valid": valid})


def write_planted(root: Path) -> None:
    """Write domains and specific sets.

    ``domains`` has four of different distributions, ``alike`` four of the same one. ``target``
    resembles ``domains/d1``, and ``both`` half ``d0`` and half ``d1``. ``few`` is a domain of six
    documents. ``leaky`` is a domain that has, beside others, all of ``target``'s validation split.
    """
    for taste in range(4):
        name = f"d{taste}"
        plant(root / "domains" / name, documents(taste, 0, 2000), documents(taste, 1, 40))
        split = 10 + 2 * taste
        plant(root / "alike" / name, documents(9, split, 2000), documents(9, split + 1, 40))
    held_out = documents(1, 3, 10)
    plant(root / "target", documents(1, 2, 200), held_out)
    mixed = [documents(0, split, 100) + documents(1, split, 100) for split in (4, 5)]
    plant(root / "both", *([pair[i // 2 + 100 * (i % 2)] for i in range(200)] for pair in mixed))
    plant(root / "few", documents(7, 0, 6), documents(7, 1, 40))
    plant(root / "leaky", held_out + documents(8, 0, 10), documents(8, 1, 40))
