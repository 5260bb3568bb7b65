"""A language model whose tokens are letters, and whose losses anybody can compute."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import TokenArray
from megadga.use.loading import CausalLm
from megadga.use.text import ModelTokenizer
from megadga.use.tokenizers import FoundTokenizer

START, END = 1, 0


class Letters:
    """A token for each character, its code point; a ``Coder``."""

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        return [np.array([ord(each) for each in text], dtype=np.int64) for text in texts]

    def decode(self, tokens: TokenArray) -> str:
        return "".join(chr(each) for each in tokens.tolist() if each > START)


def loss_of(previous: int, following: int) -> float:
    """Return the loss of a token after another: quarters, whose sums are exact."""
    return (7 * previous + 3 * following) % 16 / 4


@dataclass
class LetterDecoder:
    """Returns ``loss_of`` each target, 0 where there is none; notes the shapes of its input."""

    shapes: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])

    def __call__(self, tokens: Tensor) -> Tensor:
        self.shapes.append(tuple(tokens.shape))
        ids = torch.where(tokens < -100, -101 - tokens, tokens)
        losses = (7 * ids[:, :-1] + 3 * ids[:, 1:]) % 16 / 4
        return torch.where(tokens[:, 1:] >= 0, losses, 0.0)


def letter_model(
    decoder: Any,
    *,
    positions: int | None = None,
    before: tuple[int, ...] = (START,),
    with_tokenizer: bool = True,
) -> CausalLm:
    tokenizer = ModelTokenizer(Letters(), end=END, start=START, before=before)
    missing = "letters: expected a tokenizer, found none"
    return CausalLm(
        name="letters",
        step=None,
        decoder=decoder,
        dtype="fp32",
        device=torch.device("cpu"),
        positions=positions,
        sequence_length=8,
        found=FoundTokenizer(tokenizer if with_tokenizer else None, missing, frozenset()),
    )
