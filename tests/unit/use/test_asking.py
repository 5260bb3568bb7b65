from typing import Any

import pytest

from megadga.errors import ConfigError
from megadga.use.scorers.asking import PROMPT, Answers, answer_tokens
from megadga.use.scorers.models import ScoringModel
from megadga.use.sources import ModelName

MODEL = ScoringModel(ModelName("models/instruct"), "abcd")


class Words:
    """A tokenizer whose tokens are whole words, each with the space before it."""

    def __init__(self, *, chat_template: str | None = None, shared: bool = False) -> None:
        self.chat_template = chat_template
        self.shared = shared
        self.known: list[str] = []

    def encode(self, text: str, **_: Any) -> list[int]:
        words = text.replace(" ", "\0 ").strip("\0").split("\0")
        words = ["?", *words] if self.shared else words
        self.known += [word for word in words if word not in self.known]
        return [self.known.index(word) for word in words]

    def decode(self, tokens) -> str:
        return "".join(self.known[each] for each in tokens)

    def apply_chat_template(self, messages, *, add_generation_prompt: bool, tokenize: bool) -> str:
        assert add_generation_prompt
        assert not tokenize
        return f"<user>{messages[0]['content']}<assistant>"


def test_every_spelling_of_yes_counts_and_no_spelling_of_no():
    tokenizer = Words()
    found = [tokenizer.known[each] for each in answer_tokens(tokenizer)]
    assert sorted(found) == [" YES", " Yes", " yes", "YES", "Yes", "yes"]


def test_a_tokenizer_that_begins_both_answers_alike_is_refused():
    with pytest.raises(ConfigError, match="tokens that tell yes from no, found none"):
        answer_tokens(Words(shared=True))


def test_a_long_document_is_shown_by_its_beginning():
    tokenizer = Words()
    asked = Answers(MODEL, tokenizer, "Is {document} good?", document_tokens=2)
    ids = asked._encode(tokenizer, "one two three four")
    assert tokenizer.decode(ids) == "Is one two good?"


def test_a_chat_template_ends_where_the_answer_begins():
    tokenizer = Words(chat_template="...")
    ids = Answers(MODEL, tokenizer)._encode(tokenizer, "a text")
    assert tokenizer.decode(ids) == f"<user>{PROMPT.replace('{document}', 'a text')}<assistant>"


def test_a_prompt_without_a_place_for_the_document_is_refused():
    with pytest.raises(ConfigError, match=r"--prompt: expected \{document\} in it, found 'Good"):
        Answers(MODEL, Words(), "Good?")
