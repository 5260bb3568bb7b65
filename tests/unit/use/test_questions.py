import json

import pytest

from megadga.errors import ConfigError
from megadga.use.questions import read_questions

GOOD = {"question": "How many?", "choices": ["one", "two", "three"], "answer": 0}


def write(path, *records):
    lines = (one if isinstance(one, str) else json.dumps(one) for one in records)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_an_answer_is_an_index_or_a_letter(tmp_path):
    file = write(
        tmp_path / "q.jsonl", GOOD | {"answer": 2}, "", GOOD | {"answer": "B", "subject": "sums"}
    )

    first, second = read_questions(file)

    assert (first.line, first.answer) == (1, 2)
    assert (second.line, second.answer, second.choices) == (3, 1, ["one", "two", "three"])
    assert read_questions(file, limit=1)[0].answer == 2
    assert second.context("Q: {question} {A}") == "Q: How many? {A}"


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("{", "expected one JSON object, found "),
        ("[1]", "expected a JSON object, found list [1]"),
        (
            {"question": "a", "answer": 0},
            "choices: expected this key, found only question, answer",
        ),
        (GOOD | {"question": " "}, 'question: expected text, found str " "'),
        (GOOD | {"choices": "ab"}, 'choices: expected a list, found str "ab"'),
        (GOOD | {"choices": ["a"]}, "choices: expected at least 2, found 1"),
        (GOOD | {"choices": ["a", 2]}, "choices[1]: expected text, found int 2"),
        (
            GOOD | {"answer": "D"},
            'answer: expected an index from 0 to 2 or a letter from A to C, found str "D"',
        ),
        (GOOD | {"answer": 3}, "answer: expected an index from 0 to 2 or"),
        (GOOD | {"answer": True}, "answer: expected an index from 0 to 2 or"),
        (GOOD | {"answer": ""}, "answer: expected an index from 0 to 2 or"),
    ],
)
def test_what_is_no_question_is_named_by_file_line_and_key(tmp_path, bad, complaint):
    file = write(tmp_path / "q.jsonl", GOOD, bad)

    with pytest.raises(ConfigError) as error:
        read_questions(file)

    assert str(error.value).startswith(f"{file}:2: {complaint}")


def test_a_file_without_questions_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"found an empty file"):
        read_questions(write(tmp_path / "q.jsonl", ""))
    with pytest.raises(ConfigError, match=r"q\.jsonl: .* found No such file"):
        read_questions(tmp_path / "none" / "q.jsonl")
