"""Dialogues among records: what is kept, and how those that are none are refused."""

import json

import pytest

from megadga.prepare.reading.documents import iterate_records, split_file
from megadga.prepare.reading.records import Document, InvalidRecord, Keys
from tests.support.dialogues import assistant, user

KEYS = Keys("messages", "id", chat=True)
CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]


def read(path, keys=KEYS):
    (span,) = split_file(path, span_bytes=1 << 20)
    return list(iterate_records(span, keys))[:-1]


def only(path, keys=KEYS) -> str:
    (record,) = read(path, keys)
    assert isinstance(record, InvalidRecord), record
    assert not record.empty
    return record.reason


def test_messages_and_tools_are_kept_as_they_are_but_for_nulls(tmp_path):
    messages = [
        {"role": "system", "content": "Bé brief.", "name": None},
        {**user("2 + 2?"), "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": CALL},
        {"role": "tool", "content": "4", "tool_call_id": "x"},
        {**assistant("4"), "tool_calls": None},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": 7, "messages": messages, "tools": [{"name": "add"}]}))
    (record,) = read(path)
    assert isinstance(record, Document)
    assert record.id == "7"
    kept = json.loads(record.text)
    assert kept["tools"] == [{"name": "add"}]
    assert kept["messages"] == [
        {"role": "system", "content": "Bé brief."},
        *messages[1:4],
        assistant("4"),
    ]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "messages: expected an array of messages, found a string"),
        ([], "messages: expected an assistant's turn with text, found turns of none"),
        (["hello"], "messages[0]: expected an object, found a string"),
        (
            [user("a"), {"role": "assistant"}],
            "messages[1]: expected role and content, found only role",
        ),
        (
            [{"from": "gpt", "value": "b"}],
            "messages[0]: expected role and content, found only from, value",
        ),
        (
            [{"role": "bot", "content": "b"}],
            'messages[0].role: expected one of system, user, assistant, tool, found "bot"',
        ),
        (
            [{"role": ["user"], "content": "b"}],
            'messages[0].role: expected one of system, user, assistant, tool, found ["user"]',
        ),
        (
            [user("a"), {"role": "assistant", "content": None}],
            "messages[1].content: expected a string, found null",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "messages[0].content: expected a string, found an array",
        ),
        (
            [{"role": "system", "content": "a"}, user("b")],
            "messages: expected an assistant's turn with text, found turns of system, user",
        ),
        (
            [user("a"), assistant(" ")],
            "messages: expected an assistant's turn with text, found only empty ones",
        ),
    ],
)
def test_records_that_are_no_dialogues_are_refused_with_the_place(tmp_path, messages, reason):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": 1, "messages": messages}) + "\n")
    assert only(path) == reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": 1, "text": "a"}', "messages: expected an array of messages, found only id, text"),
        (
            '{"id": 1, "messages": [{"role": "assistant", "content": "\\ud83d"}]}',
            "messages: expected Unicode text, found 'utf-8' codec can't encode character",
        ),
        (
            '{"id": 1, "tools": {}, "messages": [{"role": "assistant", "content": "a"}]}',
            "tools: expected an array, found an object",
        ),
    ],
)
def test_lines_that_are_no_dialogues_are_refused(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    assert only(path).startswith(reason)


def test_a_text_file_is_no_dialogue(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello")
    keys = Keys("messages", chat=True)
    assert only(path, keys) == "messages: expected a record with fields, found a plain text file"


def test_parquet_has_dialogues_as_lists_of_structs(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    dialogues = [
        [user("a"), {**assistant("é"), "name": "b"}],
        [user("a")],
        None,
    ]
    table = pyarrow.table({"id": ["x", "y", "z"], "messages": dialogues})
    parquet.write_table(table, tmp_path / "a.parquet")
    first, *others = read(tmp_path / "a.parquet")
    assert isinstance(first, Document)
    assert json.loads(first.text)["messages"] == dialogues[0]
    bad = [each for each in others if isinstance(each, InvalidRecord)]
    assert [(each.line, each.reason) for each in bad] == [
        (2, "messages: expected an assistant's turn with text, found turns of user"),
        (3, "messages: expected an array of messages, found null"),
    ]
