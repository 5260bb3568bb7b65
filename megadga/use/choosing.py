"""Answers multiple-choice questions by the likelihood of each choice, as lm-eval does.

A choice follows its question's context and a space. Its log-likelihood is that of the tokens that
the whole text has after those of the context. It is compared as it is (``acc`` of lm-eval), and
per byte of the choice (``acc_bytes``; ``acc_norm`` is per character, which is equal in ASCII).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megadga.arrays import FloatArray
from megadga.data.targets import PADDING
from megadga.errors import ConfigError
from megadga.prepare.progress import Stages, no_progress
from megadga.use.loading import CausalLm
from megadga.use.questions import Question
from megadga.use.text import ModelTokenizer


@dataclass(frozen=True, eq=False)
class Answered:
    """A question with the log-likelihoods of its choices.

    Attributes:
        question: The question.
        log_likelihoods: Natural logarithms, one a choice.
    """

    question: Question
    log_likelihoods: FloatArray

    @property
    def plain(self) -> int:
        """Index of the most likely choice."""
        return int(self.log_likelihoods.argmax())

    @property
    def per_byte(self) -> int:
        """Index of the choice that is most likely per byte of its text."""
        sizes = np.array([len(choice.encode()) for choice in self.question.choices])
        return int((self.log_likelihoods / sizes).argmax())


@dataclass(frozen=True, eq=False)
class ChoiceScore:
    """How many questions a model answers.

    Attributes:
        file: The questions' file.
        answered: All questions, in order.
        truncated: Texts of a context and a choice that were too long for the model, and lost the
            beginning of the context.
    """

    file: Path
    answered: Sequence[Answered]
    truncated: int

    @property
    def accuracy(self) -> float:
        """Share of right answers by the log-likelihood, in [0, 1]."""
        return float(np.mean([each.plain == each.question.answer for each in self.answered]))

    @property
    def accuracy_per_byte(self) -> float:
        """Share of right answers by the log-likelihood per byte, in [0, 1]."""
        return float(np.mean([each.per_byte == each.question.answer for each in self.answered]))

    @property
    def chance(self) -> float:
        """Expected share of right answers of a random choice."""
        return float(np.mean([1.0 / len(each.question.choices) for each in self.answered]))

    def as_json(self) -> dict[str, Any]:
        """Return everything, JSON-serializable."""
        return {
            "file": str(self.file),
            "questions": len(self.answered),
            "accuracy": self.accuracy,
            "accuracy_per_byte": self.accuracy_per_byte,
            "chance": self.chance,
            "truncated": self.truncated,
            "answers": [
                {
                    "line": each.question.line,
                    "answer": each.question.answer,
                    "chosen": each.plain,
                    "chosen_per_byte": each.per_byte,
                    "log_likelihoods": each.log_likelihoods.tolist(),
                }
                for each in self.answered
            ],
        }


@dataclass(frozen=True)
class _Text:
    """A context and a choice as tokens, of which the last ``scored`` are the choice's."""

    question: int
    choice: int
    tokens: Sequence[int]
    scored: int


def answer_questions(
    model: CausalLm,
    file: Path,
    questions: Sequence[Question],
    *,
    template: str,
    batch_size: int,
    stages: Stages = no_progress,
) -> ChoiceScore:
    """Answer questions.

    Args:
        model: The model.
        file: Their file.
        questions: At least one.
        template: Context of the choices, with ``{question}`` in it.
        batch_size: Texts of a forward pass, at least 1.
        stages: Reports progress.

    Raises:
        ConfigError: If the model has no tokenizer, a choice has no tokens of its own or is longer
            than what the model reads, or memory does not suffice.
    """
    tokenizer = model.needed_tokenizer()
    longest = model.positions
    texts = [
        text
        for number, question in enumerate(questions)
        for text in _encode(tokenizer, question, number, template, f"{file}:{question.line}")
    ]
    for text in texts:
        if longest is not None and text.scored > longest:
            place = f"{file}:{questions[text.question].line}: choices[{text.choice}]"
            raise ConfigError(
                f"{place}: expected at most {longest:,} tokens, found {text.scored:,}"
            )
    found = [np.zeros(len(question.choices)) for question in questions]
    texts.sort(key=lambda text: len(text.tokens), reverse=True)  # long ones find too little memory
    advance = stages(file.name, len(texts), " choices")
    for first in range(0, len(texts), batch_size):
        batch = texts[first : first + batch_size]
        kept = [text.tokens if longest is None else text.tokens[-longest - 1 :] for text in batch]
        windows = np.full((len(batch), max(map(len, kept))), PADDING, dtype=np.int64)
        for row, tokens in zip(windows, kept, strict=True):
            row[: len(tokens)] = tokens
        losses = model.token_losses(windows)
        for row, tokens, text in zip(losses, kept, batch, strict=True):
            end = len(tokens) - 1
            found[text.question][text.choice] = -row[end - text.scored : end].sum()
        advance(len(batch))
    truncated = sum(longest is not None and len(text.tokens) > longest + 1 for text in texts)
    answered = [Answered(*pair) for pair in zip(questions, found, strict=True)]
    return ChoiceScore(file, answered, truncated)


def _encode(
    tokenizer: ModelTokenizer, question: Question, number: int, template: str, place: str
) -> list[_Text]:
    """Return a question's texts. White space ends no context: it belongs to what follows."""
    context = question.context(template)
    space = context[len(context.rstrip()) :]
    before = [*tokenizer.before, *tokenizer.encode(context.rstrip())]
    texts: list[_Text] = []
    for index, choice in enumerate(question.choices):
        whole = [*tokenizer.before, *tokenizer.encode(f"{context.rstrip()}{space} {choice}")]
        scored = len(whole) - len(before)
        if not before or scored < 1:
            raise ConfigError(
                f"{place}: choices[{index}]: expected a choice that has tokens of its own after "
                f"its question, found {choice[:40]!r}"
            )
        texts.append(_Text(number, index, whole, scored))
    return texts
