"""Text that a model continues a prompt with, by transformers' ``generate``."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (transformers is partly typed)

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from megadga.errors import ConfigError
from megadga.use.loading import CausalLm, fitting
from megadga.use.text import ModelTokenizer

_UNFINISHED = "\ufffd"
"""What decoders make of a character whose last bytes are not there yet."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_tokens: Maximum number of tokens of a text, at least 1.
        temperature: Divisor of the scores; 0: the most likely token.
        top_p: Only the most likely tokens whose probabilities add up to this, in (0, 1].
        seed: Of the first text's draws; each further text has the next number.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """A text.

    Attributes:
        text: What follows the prompt.
        tokens: Its ids, without the end.
        ended: Whether the model ended it.
    """

    text: str
    tokens: Sequence[int]
    ended: bool


def encode_prompt(model: CausalLm, prompt: str) -> list[int]:
    """Return the tokens that are continued: those of a text after the start of a document.

    Raises:
        ConfigError: If the model has no tokenizer, or cannot read so many tokens and one more.
    """
    tokenizer = model.needed_tokenizer()
    start = tokenizer.start
    tokens = [*([] if start is None else [start]), *tokenizer.encode(prompt)] or [tokenizer.end]
    if model.positions is not None and len(tokens) >= model.positions:
        raise ConfigError(
            f"--prompt: expected fewer than {model.positions:,} tokens, as many as the model "
            f"reads, found {len(tokens):,}"
        )
    return tokens


def generate(
    model: CausalLm,
    prompt: Sequence[int],
    decoding: Decoding,
    *,
    number: int = 0,
    write: Callable[[str], object] = lambda _: None,
) -> Generated:
    """Continue a prompt until the model ends the document, or it is long enough.

    Args:
        model: The model.
        prompt: What `encode_prompt` returned.
        decoding: How tokens are chosen. The same seed gives the same text on the same device.
        number: Which of several texts, from 0.
        write: Called with each piece of text as soon as it is known.

    Raises:
        ConfigError: If memory does not suffice.
    """
    tokenizer = model.needed_tokenizer()
    module: Any = model.decoder.model
    room = decoding.max_tokens
    if model.positions is not None:
        room = min(room, model.positions - len(prompt))
    ends = _ends(module, tokenizer)
    sampled = decoding.temperature > 0.0
    chosen: dict[str, Any] = {"do_sample": sampled}
    if sampled:  # top_k has a default
        chosen |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=room, eos_token_id=ends, pad_token_id=ends[0], use_cache=True, **chosen
    )
    stream = TextStream(tokenizer, prompt, write, ends)
    ids = torch.tensor([list(prompt)], device=model.device)
    devices = [] if model.device.type == "cpu" else [model.device]
    with (
        fitting(f"{len(prompt) + room:,} tokens"),
        torch.random.fork_rng(devices=devices, device_type=model.device.type),
    ):
        torch.manual_seed(decoding.seed + number)
        whole: Tensor = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            streamer=stream,
        )
    tokens: list[int] = whole[0, len(prompt) :].tolist()
    ended = bool(tokens) and tokens[-1] in ends
    return Generated(stream.text, tokens[:-1] if ended else tokens, ended)


def _ends(module: Any, tokenizer: ModelTokenizer) -> list[int]:
    """Return the ids that end a text: a chat model may have more than the tokenizer says."""
    own: int | list[int] | None = module.generation_config.eos_token_id
    more = own if isinstance(own, list) else [] if own is None else [own]
    return list(dict.fromkeys((tokenizer.end, *more)))


@final
class TextStream(BaseStreamer):
    """Writes text while tokens come in: as soon as its characters are whole.

    Tokens are decoded behind some that are known, as their text may depend on these (a space at
    the beginning of a text, a character of several tokens).

    Args:
        tokenizer: The model's.
        prompt: Tokens before the text.
        write: Called with each piece of text.
        ends: Ids that have no text.

    Attributes:
        text: What was written.
    """

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        prompt: Sequence[int],
        write: Callable[[str], object],
        ends: Sequence[int],
    ) -> None:
        self.text = ""
        self._tokenizer = tokenizer
        self._write = write
        self._ends = ends
        self._tokens = list(prompt)
        self._begin = max(len(prompt) - 8, 0)
        self._known = len(prompt)
        self._skips_prompt = True

    def put(self, value: Tensor) -> None:
        """Take the prompt, then each token."""
        if self._skips_prompt:
            self._skips_prompt = False
            return
        for token in value.flatten().tolist():
            if token not in self._ends:
                self._tokens.append(token)
                self._advance(last=False)

    def end(self) -> None:
        """Write what is left."""
        self._advance(last=True)

    def _advance(self, *, last: bool) -> None:
        before = self._tokenizer.decode(self._tokens[self._begin : self._known])
        piece = self._tokenizer.decode(self._tokens[self._begin :])[len(before) :]
        if not piece or (piece.endswith(_UNFINISHED) and not last):
            return
        self._begin, self._known = self._known, len(self._tokens)
        self.text += piece
        self._write(piece)
