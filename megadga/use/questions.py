"""Multiple-choice questions in JSON lines (without torch).

    {"question": "What is the capital of France?", "choices": ["Rome", "Paris"], "answer": 1}

``answer`` is the index of a choice, from 0, or its letter, from A. Other keys are ignored.
"""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from megadga.data.records import describe
from megadga.errors import ConfigError

TEMPLATE = "Question: {question}\nAnswer:"
"""Default context of the choices, as lm-eval has it for ARC."""
FIELD = "{question}"


@dataclass(frozen=True)
class Question:
    """A question and its choices.

    Attributes:
        line: Its line in the file, from 1.
        question: Its text.
        choices: At least two.
        answer: Index of the right one.
    """

    line: int
    question: str
    choices: Sequence[str]
    answer: int

    def context(self, template: str) -> str:
        """Return what stands before a choice and the space before that."""
        return template.replace(FIELD, self.question)


def read_questions(path: Path, *, limit: int | None = None) -> list[Question]:
    """Read questions; blank lines are ignored.

    Args:
        path: JSON lines in UTF-8.
        limit: Maximum number, from the beginning; None: all.

    Raises:
        ConfigError: If the file cannot be read, has no question, or a line is none; names file,
            line and key.
    """
    questions: list[Question] = []
    try:
        with path.open("rb") as file:
            for line, content in enumerate(file, start=1):
                if limit is not None and len(questions) == limit:
                    break
                if content.strip():
                    questions.append(_parse(content, line, f"{path}:{line}"))
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError(f"{path}: expected questions in JSON lines, found {found}") from error
    if not questions:
        raise ConfigError(f"{path}: expected questions in JSON lines, found an empty file")
    return questions


def _parse(content: bytes, line: int, place: str) -> Question:
    try:
        record: object = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: expected one JSON object, found {error}") from error
    if not isinstance(record, Mapping):
        raise ConfigError(f"{place}: expected a JSON object, found {describe(record)}")
    fields = cast("Mapping[str, Any]", record)
    for key in ("question", "choices", "answer"):
        if key not in fields:
            found = ", ".join(fields) or "none"
            raise ConfigError(f"{place}: {key}: expected this key, found only {found}")
    question, choices, answer = (fields[key] for key in ("question", "choices", "answer"))
    if not _is_text(question):
        raise ConfigError(f"{place}: question: expected text, found {describe(question)}")
    if not isinstance(choices, list):
        raise ConfigError(f"{place}: choices: expected a list, found {describe(choices)}")
    given = cast("list[Any]", choices)
    if len(given) < 2:
        raise ConfigError(f"{place}: choices: expected at least 2, found {len(given)}")
    for index, choice in enumerate(given):
        if not _is_text(choice):
            raise ConfigError(
                f"{place}: choices[{index}]: expected text, found {describe(choice)}"
            )
    return Question(line, question, given, _answer(answer, len(given), place))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _answer(answer: object, count: int, place: str) -> int:
    """Return the index of the right choice."""
    letters = string.ascii_uppercase[:count]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < count:
        return answer
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        return letters.index(answer)
    expected = f"an index from 0 to {count - 1} or a letter from A to {letters[-1]}"
    raise ConfigError(f"{place}: answer: expected {expected}, found {describe(answer)}")
