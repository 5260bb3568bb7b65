"""Multiple choice by likelihood, against log-likelihoods that are added up by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from megadga.errors import ConfigError
from megadga.use.choosing import Answered, ChoiceScore, answer_questions
from megadga.use.questions import TEMPLATE, Question
from tests.support.letters import LetterDecoder, letter_model, loss_of

FILE = Path("questions.jsonl")
QUESTIONS = (
    Question(1, "What?", ["a", "bcd", "ee"], 1),
    Question(3, "A longer one, and why?", ["no", "yes"], 0),
    Question(4, "Ah", ["x", "yy", "z", "w"], 3),
)


def answered(questions=QUESTIONS, *, template=TEMPLATE, batch_size=4, decoder=None, **options):
    model = letter_model(LetterDecoder() if decoder is None else decoder, **options)
    return answer_questions(model, FILE, questions, template=template, batch_size=batch_size)


def by_hand(context: str, continuation: str) -> float:
    """Return minus the sum of the losses of what follows a context."""
    text = context + continuation
    places = range(len(context), len(text))
    return -sum(loss_of(ord(text[place - 1]), ord(text[place])) for place in places)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_choices_likelihood_is_that_of_its_tokens_after_the_question(batch_size):
    score = answered(batch_size=batch_size)

    assert [each.question for each in score.answered] == list(QUESTIONS)
    for each in score.answered:
        context = f"Question: {each.question.question}\nAnswer:"
        expected = [by_hand(context, f" {choice}") for choice in each.question.choices]
        assert each.log_likelihoods.tolist() == expected
    assert score.truncated == 0


def test_texts_are_read_together_the_longest_first():
    decoder = LetterDecoder()
    answered(batch_size=4, decoder=decoder)
    longest = len("\1Question: A longer one, and why?\nAnswer: yes")
    assert decoder.shapes == [
        (4, longest),
        (4, len("\1Question: What?\nAnswer: a")),
        (1, len("\1Question: Ah\nAnswer: w")),
    ]


def test_white_space_at_the_end_of_a_context_is_scored_with_the_choice():
    (found,) = answered(QUESTIONS[:1], template="{question}\n\n").answered
    expected = [by_hand("What?", f"\n\n {choice}") for choice in QUESTIONS[0].choices]
    assert found.log_likelihoods.tolist() == expected


def test_a_text_that_is_too_long_loses_the_beginning_of_its_context():
    """The likelihood of a choice is the same here, as this model looks one letter back."""
    decoder = LetterDecoder()
    whole, short = answered(), answered(positions=27, decoder=decoder)
    for one, other in zip(whole.answered, short.answered, strict=True):
        assert np.array_equal(one.log_likelihoods, other.log_likelihoods)
    # 28 letters are 27 inputs and the last target: those of the first and last question fit.
    assert short.truncated == 2
    assert max(width for _, width in decoder.shapes) == 28


def test_a_choice_that_is_longer_than_what_the_model_reads_is_an_error():
    with pytest.raises(ConfigError) as error:
        answered(positions=3)
    assert str(error.value) == (
        "questions.jsonl:1: choices[1]: expected at most 3 tokens, found 4"
    )


def test_a_choice_without_tokens_of_its_own_is_an_error():
    with pytest.raises(ConfigError) as error:  # nothing that its first token is predicted from
        answered(QUESTIONS[2:], template="", before=())
    assert str(error.value) == (
        "questions.jsonl:4: choices[0]: expected a choice that has tokens of its own after its "
        "question, found 'x'"
    )


def test_a_model_without_a_tokenizer_answers_nothing():
    with pytest.raises(ConfigError, match=r"^letters: expected a tokenizer, found none$"):
        answered(with_tokenizer=False)


def test_too_little_memory_is_an_error_of_one_line():
    def decoder(_):
        raise torch.OutOfMemoryError("tried to allocate\n 9 GB")

    with pytest.raises(ConfigError) as error:
        answered(QUESTIONS[:1], batch_size=2, decoder=decoder)
    assert str(error.value) == (
        "--batch-size: expected memory for 2 windows of 27 tokens at once, found too little: "
        "tried to allocate 9 GB"
    )


def score_of(*rows):
    questions = [
        Answered(Question(line, "?", choices, answer), np.array(likelihoods))
        for line, (choices, answer, likelihoods) in enumerate(rows, start=1)
    ]
    return ChoiceScore(FILE, questions, 2)


def test_answers_are_counted_by_likelihood_and_by_likelihood_per_byte():
    score = score_of(
        (["a", "bbbb"], 0, [-2.0, -4.0]),  # right; per byte it is the other: -2 and -1
        (["é", "b"], 0, [-4.0, -3.0]),  # wrong; per byte right, as é has two bytes
        (["a", "b", "c", "d"], 2, [-3.0, -2.0, -1.0, -4.0]),  # right in both
    )
    assert [each.plain for each in score.answered] == [0, 1, 2]
    assert [each.per_byte for each in score.answered] == [1, 0, 2]
    assert score.accuracy == pytest.approx(2 / 3)
    assert score.accuracy_per_byte == pytest.approx(2 / 3)
    assert score.chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)


def test_all_of_it_is_json():
    score = score_of((["a", "bbbb"], 1, [-2.0, -4.0]), (["c", "d"], 1, [-2.0, -1.5]))
    assert json.loads(json.dumps(score.as_json())) == {
        "file": "questions.jsonl",
        "questions": 2,
        "accuracy": 0.5,
        "accuracy_per_byte": 1.0,
        "chance": 0.5,
        "truncated": 2,
        "answers": [
            {
                "line": 1,
                "answer": 1,
                "chosen": 0,
                "chosen_per_byte": 1,
                "log_likelihoods": [-2.0, -4.0],
            },
            {
                "line": 2,
                "answer": 1,
                "chosen": 1,
                "chosen_per_byte": 1,
                "log_likelihoods": [-2.0, -1.5],
            },
        ],
    }
