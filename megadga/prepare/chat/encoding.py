"""From a rendered dialogue to tokens of which the assistant's turns are trained."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from megadga.arrays import IntArray
from megadga.data.targets import BoolArray, mark_targets
from megadga.errors import ConfigError
from megadga.prepare.chat.template import ChatTemplate, RenderedDialogue, load_template
from megadga.prepare.reading.records import RecordError
from megadga.prepare.tokenizers.base import LocatedTokens, MarkupTokenizer
from megadga.prepare.tokenizers.round_trips import find_change

_PROBE = {
    "messages": [
        {"role": "user", "content": "How much is 2 + 2?"},
        {"role": "assistant", "content": "It is 4."},
    ]
}


@dataclass(frozen=True)
class ChatEncoder:
    """Renders and tokenizes dialogues; picklable, for workers. Created by ``load``.

    The tokens are those of ``apply_chat_template``, but none spans the edge of an assistant's
    turn: where one would, text is tokenized up to the edge and from there on, as it is when a
    model answers. So the trained tokens are decoded to the assistant's turns, and nothing else.

    Attributes:
        tokenizer: The tokenizer.
        template: Its chat template.
    """

    tokenizer: MarkupTokenizer
    template: ChatTemplate

    @classmethod
    def load(cls, tokenizer: MarkupTokenizer, path: Path, choice: str | None) -> Self:
        """Read a chat template, and try it.

        Args:
            tokenizer: The tokenizer.
            path: Where it was loaded from.
            choice: A file with a template, or ``chatml``; None: the tokenizer's own.

        Raises:
            ConfigError: If there is no template, it fails on a dialogue of two turns, or leaves
                out the assistant's turn or the token that ends it.
        """
        encoder = cls(tokenizer, load_template(tokenizer, path, choice))
        origin = encoder.template.origin
        try:
            rendered = encoder.template.render(_PROBE)
        except RecordError as error:
            raise ConfigError(f"{origin}: {error}") from error
        answer = "".join(rendered.text[begin:end] for begin, end in rendered.turns)
        if _PROBE["messages"][1]["content"] not in answer:
            raise ConfigError(
                f"{origin}: expected a chat template that renders the assistant's turn, found "
                f"{rendered.text!a} with {answer!a} of it"
            )
        encoder._check_end(rendered)
        return encoder

    def encode(self, text: str) -> IntArray:
        """Return the tokens of a dialogue, with EOD, as ``mark_targets`` returns them.

        Args:
            text: Of ``Document``: the dialogue, as JSON.

        Raises:
            RecordError: If the template fails or does not render the assistant, the dialogue
                spells a special token, or is changed by the tokenizer.
        """
        if (spelt := self._special.search(text)) is not None:
            raise RecordError(
                "messages: expected text that spells no special token of the tokenizer, "
                f"found {spelt.group()!a}"
            )
        rendered = self.template.render(json.loads(text))
        turns = [(begin, self._end(rendered.text, begin, end)) for begin, end in rendered.turns]
        located = self._locate(rendered.text, sorted({edge for turn in turns for edge in turn}))
        if (change := self._find_change(rendered.text, located.ids)) is not None:
            raise RecordError(f"messages: expected text that survives the tokenizer, {change}")
        trained = np.zeros(located.ids.size, dtype=np.bool_)
        for begin, end in turns:
            trained |= (located.begins >= begin) & (located.begins < end)
        if not trained.any():
            raise RecordError("messages: expected an assistant's turn once rendered, found none")
        eod = self.tokenizer.identity.eod
        if located.ids[-1] == eod:
            return mark_targets(located.ids, trained)
        return mark_targets(np.append(located.ids, eod), np.append(trained, False))

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Matches the name of a special token; the longest, as tokenizers do."""
        names = sorted(self.tokenizer.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")

    def _end(self, text: str, begin: int, end: int) -> int:
        """Return the end of a turn, without white space behind the token that ends it."""
        if self.template.marks_turns:
            return end
        *_, last = 0, *(found.end() for found in self._special.finditer(text, begin, end))
        return last if last and not text[last:end].strip() else end

    def _check_end(self, rendered: RenderedDialogue) -> None:
        """Check that a template that marks turns includes the token that ends them."""
        _, end = rendered.turns[-1]
        after = self._special.match(rendered.text, end)
        inside = any(f.end() == end for f in self._special.finditer(rendered.text, 0, end))
        if after is not None and not inside:
            raise ConfigError(
                f"{self.template.origin}: expected the token that ends the assistant's turn "
                f"inside of {{% generation %}}, found {after.group()!a} behind it: the model "
                "would never learn to stop; move {% endgeneration %} (--chat-template)"
            )

    def _locate(self, text: str, edges: list[int]) -> LocatedTokens:
        """Return the tokens of a text, none of which spans an edge."""
        whole = self.tokenizer.locate(text)
        special = self._are_special(whole.ids)
        cut = [
            edge
            for edge in edges
            if ((whole.begins < edge) & (edge < whole.ends) & ~special).any()
        ]
        if not cut:
            return whole
        starts, stops = [0, *cut], [*cut, len(text)]
        parts = [self.tokenizer.locate(text[a:b]) for a, b in zip(starts, stops, strict=True)]
        return LocatedTokens(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.begins + at for part, at in zip(parts, starts, strict=True)]),
            np.concatenate([part.ends + at for part, at in zip(parts, starts, strict=True)]),
        )

    def _are_special(self, ids: IntArray) -> BoolArray:
        return np.isin(ids, self._special_ids)

    @cached_property
    def _special_ids(self) -> IntArray:
        return np.array(sorted(self.tokenizer.special_tokens.values()), dtype=np.int64)

    def _find_change(self, text: str, ids: IntArray) -> str | None:
        """Return how a round trip changes what is between special tokens, None if it does not."""
        places = np.flatnonzero(self._are_special(ids))
        texts = self._special.split(text)
        if len(texts) != places.size + 1:
            return f"{len(texts) - 1} special tokens by their names, found {places.size}"
        for part, run in zip(texts, np.split(ids, places), strict=True):
            own = run[self._are_special(run).sum() :]
            change = find_change(self.tokenizer, part, own)
            # Some special tokens take the white space around them.
            if change and find_change(self.tokenizer, part.strip(), own):
                return change
        return None
