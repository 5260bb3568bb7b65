"""Files that are cut, and that are read the same wherever they are cut."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.prepare.reading.documents import iterate_records, split_file
from megadga.prepare.reading.lines import Span, cut_bytes, cut_groups
from megadga.prepare.reading.records import Document, InvalidRecord, Keys, SpanEnd
from tests.support.texts import write_packed

FILE = Path("a")


def test_bytes_are_cut_at_multiples_and_the_last_span_is_open():
    assert list(cut_bytes(FILE, num_bytes=25, span_bytes=10)) == [
        Span(FILE, 0, 10, 10),
        Span(FILE, 10, 20, 10),
        Span(FILE, 20, None, 5),
    ]


@pytest.mark.parametrize("num_bytes", [0, 9, 10])
def test_a_small_file_is_one_span(num_bytes):
    assert list(cut_bytes(FILE, num_bytes=num_bytes, span_bytes=10)) == [
        Span(FILE, 0, None, num_bytes)
    ]


def test_groups_are_gathered_until_they_are_a_span():
    # 100 bytes spread as 10, 20, 30, 40.
    assert list(cut_groups(FILE, [1, 2, 3, 4], num_bytes=100, span_bytes=25)) == [
        Span(FILE, 0, 2, 30),
        Span(FILE, 2, 3, 30),
        Span(FILE, 3, None, 40),
    ]


@pytest.mark.parametrize("sizes", [[], [0], [0, 0], [5]])
def test_a_file_of_few_groups_is_one_span(sizes):
    assert list(cut_groups(FILE, sizes, num_bytes=7, span_bytes=8)) == [Span(FILE, 0, None, 7)]


@given(
    sizes=st.lists(st.integers(0, 1000)),
    num_bytes=st.integers(0, 1000),
    span_bytes=st.integers(1, 100),
)
def test_groups_are_all_in_one_span_each(sizes, num_bytes, span_bytes):
    spans = list(cut_groups(FILE, sizes, num_bytes=num_bytes, span_bytes=span_bytes))
    groups = [group for s in spans for group in range(len(sizes))[s.start : s.stop]]
    assert groups == list(range(len(sizes)))
    assert sum(span.input_bytes for span in spans) == num_bytes
    assert all(span.input_bytes >= span_bytes for span in spans[:-1])


def test_a_span_of_no_bytes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="span_bytes: expected at least 1, found 0"):
        split_file(tmp_path, span_bytes=0)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no-such: expected a readable file, found "):
        split_file(tmp_path / "no-such", span_bytes=1)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt", "a.py"])
def test_what_can_only_be_read_from_its_beginning_is_one_span(tmp_path, name):
    path = write_packed(tmp_path / name, b"some bytes")
    assert split_file(path, span_bytes=1) == (Span(path, 0, None, path.stat().st_size),)


def read_spans(path: Path, span_bytes: int):
    """Each record's position, absolute line and what it is; lines and bytes of the file."""
    records, num_lines, num_bytes = [], 0, 0
    for span in split_file(path, span_bytes=span_bytes):
        *items, end = iterate_records(span, Keys())
        assert isinstance(end, SpanEnd)
        num_bytes += end.input_bytes
        for item in items:
            assert isinstance(item, Document | InvalidRecord)
            what = item.text if isinstance(item, Document) else item.reason
            records.append((item.position, num_lines + item.line, what))
            num_bytes += item.input_bytes
        num_lines += end.num_lines
    return records, num_lines, num_bytes


line = st.sampled_from([b"", b" ", b"\r", b"bad", b'{"text": "a\\nb"}', b'{"text": "c"}\r']) | (
    st.integers(0, 90).map(lambda count: json.dumps({"text": "x" * count}).encode())
)


@given(parts=st.lists(line), final=st.sampled_from([b"", b"\n"]), span_bytes=st.integers(1, 40))
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_lines_are_read_the_same_wherever_the_file_is_cut(
    tmp_path_factory, name, parts, final, span_bytes
):
    content = b"\n".join(parts) + final
    expected, offset = [], 0
    for number, part in enumerate(content.split(b"\n"), start=1):
        if part == b"bad":
            reason = "expected one JSON object, found Expecting value: line 1 column 1 (char 0)"
            expected.append((offset, number, reason))
        elif part == b'{"text": ""}':
            expected.append((offset, number, "text: expected text, found none"))
        elif part.strip():
            expected.append((offset, number, json.loads(part)["text"]))
        offset += len(part) + 1
    path = write_packed(tmp_path_factory.getbasetemp() / name, content)
    records, num_lines, num_bytes = read_spans(path, span_bytes)
    assert records == expected
    assert num_lines == content.count(b"\n") + (not content.endswith(b"\n") and content != b"")
    assert num_bytes == path.stat().st_size


@pytest.mark.parametrize("span_bytes", range(1, 40))
def test_a_line_belongs_to_the_span_that_it_begins_in(tmp_path, span_bytes):
    path = write_packed(tmp_path / "a.jsonl", b'{"text": "one"}\n\n{"text": "two"}\n')
    found = [
        [item.position for item in iterate_records(span, Keys()) if isinstance(item, Document)]
        for span in split_file(path, span_bytes=span_bytes)
    ]
    starts = range(0, path.stat().st_size, span_bytes)
    assert found == [[p for p in (0, 17) if s <= p < s + span_bytes] for s in starts]
