"""Scores documents by what an instruct model answers about them: Ask-LLM.

Sachdeva et al. ("How to Train Data-Efficient LLMs", arXiv 2402.09668, section 3.1 and figure 3):
the model is shown the document and asked whether it is informative; the score is the probability
of "yes" among all tokens. They ask encoder-decoders (Flan-T5), whose answer is one token. Here the
model is a decoder: its chat template, if it has one, ends where its answer begins, and tokens that
begin an answer of "yes" in any usual spelling count together.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.targets import unmark_targets
from megadga.errors import ConfigError
from megadga.prepare.extras import import_extra
from megadga.prepare.labelling.shards import Decoder
from megadga.prepare.scoring.scorers import Measured, joined
from megadga.use.scorers.models import ScoringModel, load_model

FIELD = "{document}"
PROMPT = """\
###
{document}
###

Does the previous paragraph demarcated within ### and ### contain informative signal for \
pre-training a large-language model? An informative datapoint should be well-formatted, contain \
some usable knowledge of the world, and strictly NOT have any harmful, racist, sexist, etc. \
content.

OPTIONS:
- yes
- no
"""
"""That of the paper's figure 3."""

_YES = ("yes", "Yes", "YES", " yes", " Yes", " YES")
_NO = ("no", "No", "NO", " no", " No", " NO")


@functools.lru_cache(maxsize=1)
def _load_tokenizer(name: str, revision: str | None) -> Any:
    transformers = import_extra("transformers", extra="hf")
    try:
        return transformers.AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        found = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{name}: expected a tokenizer of transformers, found {found}"
        ) from error


def answer_tokens(tokenizer: Any) -> list[int]:
    """Return the ids that begin an answer of "yes", ascending.

    Args:
        tokenizer: Of transformers.

    Raises:
        ConfigError: If every spelling has a first token in common with one of "no".
    """

    def firsts(words: Sequence[str]) -> set[int]:
        encoded = (tokenizer.encode(word, add_special_tokens=False) for word in words)
        return {ids[0] for ids in encoded if ids}

    found = firsts(_YES) - firsts(_NO)
    if not found:
        raise ConfigError("--model: expected tokens that tell yes from no, found none")
    return sorted(found)


@final
@dataclass(frozen=True, eq=False)
class Answers:
    """Logarithms of the probabilities of "yes"; a ``Measure``.

    Attributes:
        model: The model: a folder of transformers, or one of its hub.
        tokenizer: Decodes documents.
        prompt: What is asked, with ``{document}`` in it.
        document_tokens: Tokens of a document that are shown, by the model's tokenizer; of a longer
            one its beginning, at least 1.

    Raises:
        ConfigError: If the prompt has no place for the document.
    """

    model: ScoringModel
    tokenizer: Decoder
    prompt: str = PROMPT
    document_tokens: int = 1024

    def __post_init__(self) -> None:
        if FIELD not in self.prompt:
            raise ConfigError(f"--prompt: expected {FIELD} in it, found {self.prompt[:60]!r}")

    def __call__(self, documents: Sequence[IntArray]) -> FloatArray:
        """Return ``log P(yes)`` of each document, at most 0, shape ``(n,)``."""
        texts = [self.tokenizer.decode(unmark_targets(tokens)[0]) for tokens in documents]
        model = load_model(self.model)
        theirs = _load_tokenizer(self.model.name.name, self.model.name.revision)
        prompts = [self._encode(theirs, text) for text in texts]
        if model.positions is not None and (longest := max(map(len, prompts))) > model.positions:
            raise ConfigError(
                f"--document-tokens: expected prompts of at most {model.positions:,} tokens, as "
                f"many as the model reads, found {longest:,}"
            )
        found = np.empty(len(documents))
        order = np.argsort([-len(ids) for ids in prompts], kind="stable")
        answers = answer_tokens(theirs)
        for begin in range(0, order.size, self.model.batch_size):
            batch = order[begin : begin + self.model.batch_size]
            places: list[int] = batch.tolist()
            ids = [prompts[place] for place in places]
            found[batch] = _log_probabilities(model, ids, answers)
        return found

    def _encode(self, tokenizer: Any, text: str) -> list[int]:
        """Return the ids of a prompt, up to where the answer begins."""
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if len(ids) > self.document_tokens:
            text = tokenizer.decode(ids[: self.document_tokens])
        asked = self.prompt.replace(FIELD, text.strip())
        if tokenizer.chat_template is None:
            return tokenizer.encode(asked, verbose=False)
        message = [{"role": "user", "content": asked}]
        whole = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        return tokenizer.encode(whole, add_special_tokens=False, verbose=False)


def _log_probabilities(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[int]
) -> FloatArray:
    """Return the logarithm of the probability that one of some ids follows each prompt."""
    import torch  # noqa: PLC0415

    from megadga.use.loading import fitting  # noqa: PLC0415

    longest = max(map(len, prompts))
    rows = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, ids in zip(rows, prompts, strict=True):  # what follows a prompt does not reach it
        row[: len(ids)] = torch.tensor(ids)
    with fitting(f"{len(prompts)} prompts of {longest:,} tokens"):
        scores = model.decoder.logits(rows.to(model.device))
        last = torch.tensor([len(ids) - 1 for ids in prompts], device=scores.device)
        chosen = scores[torch.arange(len(prompts), device=scores.device), last].double()
        logs = chosen.log_softmax(-1)[:, list(answers)].logsumexp(-1)
        return logs.cpu().numpy()


@final
@dataclass(frozen=True, eq=False)
class AskingScorer:
    """Scores documents by ``log P(yes)``; a ``Scorer``.

    Attributes:
        measure: Asks.
    """

    measure: Answers

    @property
    def description(self) -> str:
        """What the scores depend on, beside the documents."""
        prompt = hashlib.sha256(self.measure.prompt.encode()).hexdigest()[:16]
        return (
            f"ask-llm: {self.measure.model.description}, prompt {prompt}, "
            f"{self.measure.document_tokens} tokens of a document"
        )

    @property
    def relative(self) -> bool:
        """An answer depends on its document alone."""
        return False

    @property
    def passes(self) -> Sequence[Answers]:
        """One pass."""
        return (self.measure,)

    def finish(self, measured: Sequence[Measured]) -> FloatArray:
        """Return the scores of all documents."""
        (logs,) = measured
        return joined(logs)
