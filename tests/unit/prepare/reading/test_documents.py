import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.prepare.reading.documents import (
    iterate_documents,
    iterate_records,
    split_file,
)
from megadga.prepare.reading.lines import Span
from megadga.prepare.reading.records import Document, InvalidRecord, Keys, SpanEnd
from tests.support.texts import write_lines, write_packed

TEXTS = ["first", "with\nnewline and \u2028 separator", "é🎉\x00"]
PARTS = [b'{"text": "', b'", "id": ', b"7}", b"\n", b"\r", b"\0", b"\xff", b"[", b"NaN"]


def read_texts(path, **options):
    return [document.text for document in iterate_documents(path, **options)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines_give_a_document_each(tmp_path, name):
    assert read_texts(write_lines(tmp_path / name, [*TEXTS, ""])) == [*TEXTS, ""]


def test_the_text_may_have_another_key(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", TEXTS, key="content")
    assert read_texts(path, text_key="content") == TEXTS


def test_a_text_file_is_one_document_with_its_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\n")
    assert read_texts(path) == ["one\r\ntwo\n"]


def test_a_folder_gives_its_files_sorted_by_path_without_hidden_ones(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    write_lines(tmp_path / "b" / "x.jsonl", ["b1", "b2"])
    (tmp_path / "a.py").write_text("a")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / ".git" / "config").write_text("no")
    assert read_texts(tmp_path) == ["a", "b1", "b2"]


LINES = b'{"text": "a"}\n\n{"text": "b", "n": 1}\n'


@pytest.mark.parametrize(
    "name",
    ["wiki_00", "a.json", "a.JSONL", "a.ndjson", "a.txt", "part.00000-of-01024", "a.jsonl.bak"],
)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(LINES, id="lines"),
        pytest.param(b"\n  \n" + LINES.rstrip(), id="lines after blank ones"),
        pytest.param(LINES.replace(b"\n", b"\r\n"), id="lines of Windows"),
    ],
)
def test_json_lines_are_known_by_what_is_in_them(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_texts(tmp_path / name) == ["a", "b"]


@pytest.mark.parametrize("name", ["a.json.gz", "wiki_00.gz", "a.zst", "a.packed"])
@pytest.mark.parametrize("packed", ["x.gz", "x.zst"])
def test_compressed_json_lines_are_known_by_what_is_in_them(tmp_path, name, packed):
    path = write_packed(tmp_path / packed, LINES).rename(tmp_path / name)
    assert read_texts(path) == ["a", "b"]


def test_the_name_of_a_format_may_be_in_capitals(tmp_path):
    path = write_packed(tmp_path / "a.jsonl.gz", LINES).rename(tmp_path / "A.JSONL.GZ")
    assert read_texts(path) == ["a", "b"]


def test_parquet_is_known_by_what_is_in_it(tmp_path):
    for name in ("a.PARQUET", "part-0"):
        pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / name)
        assert read_texts(tmp_path / name) == ["a", "b"]


def test_json_lines_by_another_name_are_cut_too(tmp_path):
    path = write_lines(tmp_path / "wiki_00", [str(number) for number in range(1000)])
    spans = split_file(path, span_bytes=5000)
    records = [record for span in spans for record in iterate_records(span, Keys())]
    assert len(spans) > 2
    assert [one.text for one in records if isinstance(one, Document)] == [
        str(number) for number in range(1000)
    ]


def test_one_line_too_long_to_look_at_is_json_lines_if_it_begins_so(tmp_path):
    path = write_lines(tmp_path / "wiki_00", ["a" * 100_000])
    assert read_texts(path) == ["a" * 100_000]


def test_a_broken_first_line_does_not_make_a_text_of_json_lines(tmp_path):
    path = tmp_path / "wiki_00"
    path.write_bytes(b'{"text": "a\n' + LINES)
    with pytest.raises(ConfigError, match=f"^{path}:1: expected one JSON object, found"):
        read_texts(path)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.json", '[{"text": "a"}, {"text": "b"}]', "a JSON array"),
        ("a.json", '[\n {"text": "a"},\n {"text": "b"}\n]\n', "a JSON array"),
        ("a.txt", '["a", "b"]\n', "a JSON array"),
        ("a.json", '{\n "text": "a"\n}\n', "a JSON object over several lines"),
        ("a.json", '{\n "data": [\n {"text": "a"}\n ]\n}', "a JSON object over several lines"),
        ("a", '{\n "text": "a"\n}\n{\n "text": "b"\n}\n', "2 JSON values over several lines"),
        ("a.csv", "text,n\na,1\n", "a table by its name"),
        ("a.TSV", "text\tn\na\t1\n", "a table by its name"),
    ],
)
def test_records_in_a_format_that_is_not_read_are_refused(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_text(content)
    message = f"^{path}:1: expected text or JSON lines, found {found}: write one "
    with pytest.raises(ConfigError, match=message):
        read_texts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("package.json", '{\n  "name": "a",\n  "files": ["b"]\n}\n'),
        ("a.ini", "[section]\nkey = 1\n"),
        ("a.md", "[1] A paper.\n\n{not JSON}\n"),
        ("a.py", "[x, y] = 1, 2\n"),
        ("a.tex", "{\\bf a}\n{b}\n"),
    ],
)
def test_what_only_begins_like_json_is_a_text(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path) == [content]


def test_blank_lines_are_no_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n  \n{"text": "b"}')
    assert read_texts(path) == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_byte_order_mark_in_front_is_no_part_of_the_text(tmp_path, name):
    path = write_packed(tmp_path / name, b'\xef\xbb\xbf{"text": "a"}\n{"text": "\xef\xbb\xbfb"}\n')
    assert read_texts(path) == ["a", "\ufeffb"]
    write_packed(path, b"\xef\xbb\xbf\n\xef\xbb\xbf{}")
    with pytest.raises(ConfigError, match=r"a\.jsonl.*:2: expected one JSON object"):
        read_texts(path)


def test_a_byte_order_mark_in_front_of_a_text_file_is_no_part_of_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo")
    assert read_texts(tmp_path / "a.txt") == ["one\n\ufefftwo"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt"])
@pytest.mark.parametrize("filling", [b" ", b"["])
def test_of_a_record_that_is_too_long_no_more_is_held_than_it_may_have(tmp_path, name, filling):
    size, most = 1 << 25, 1 << 20
    path = write_packed(tmp_path / name, b'{"text": "a"}\n' + (size // len(filling)) * filling)
    span = Span(path, 0, None, path.stat().st_size)
    tracemalloc.start()
    try:
        with pytest.raises(
            ConfigError, match=r"a\..* expected records of at most 1,048,576 bytes"
        ):
            list(iterate_records(span, Keys(), max_record_bytes=most))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * most


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_record_may_have_as_many_bytes_as_it_may_have(tmp_path, name):
    lines = [json.dumps({"text": "x" * length}) + "\n" for length in (1, 50, 30)]
    path = write_packed(tmp_path / name, "".join(lines).encode())
    span, most = Span(path, 0, None, path.stat().st_size), len(lines[1])
    assert len(list(iterate_records(span, Keys(), max_record_bytes=most))) == 4
    with pytest.raises(ConfigError, match=f"at byte {len(lines[0])} of its text"):
        list(iterate_records(span, Keys(), max_record_bytes=most - 1))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt"])
def test_the_bytes_read_add_up_to_the_input(tmp_path, name):
    path = write_lines(tmp_path / name, ["some text"] * 5000)
    documents = list(iterate_documents(tmp_path))
    assert sum(document.input_bytes for document in documents) == path.stat().st_size


def test_a_text_of_white_space_is_no_text(tmp_path):
    assert read_texts(write_lines(tmp_path / "a.jsonl", ["a", " \n", "b"])) == ["a", "", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_bad_line_is_refused_by_file_and_line(tmp_path, name):
    path = write_packed(tmp_path / name, b'{"text": "good"}\n\n{"text": null}\n')
    with pytest.raises(ConfigError, match=f"^{path}:3: text: expected a string, found null$"):
        read_texts(path)


def test_a_bad_row_is_refused_by_file_and_row(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["good", None]}), path)
    with pytest.raises(ConfigError, match=f"^{path}:2: text: expected a string, found null$"):
        read_texts(path)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_what_is_truncated_is_refused(tmp_path, kind):
    path = tmp_path / {"gzip": "a.jsonl.gz", "zstd": "a.jsonl.zst"}[kind]
    write_lines(path, [str(number) for number in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    message = rf"^{path}:\d+: expected whole {kind}, found that it breaks off$"
    with pytest.raises(ConfigError, match=message):
        read_texts(path)


def test_what_is_called_gz_but_is_not_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"text": "plain"}\n')
    with pytest.raises(ConfigError, match=f"^{path}:1: expected whole gzip, found .*header"):
        read_texts(path)


def test_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(gzip.compress(b'{"text": "a"}\n' * 1000))
    content[12] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="expected whole gzip"):
        read_texts(path)


def test_a_text_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=f"^{path}:1: expected UTF-8 text, found .* position 3"):
        read_texts(path)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no-such: expected a file or folder, found none"):
        read_texts(tmp_path / "no-such")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    span = split_file(write_lines(tmp_path / "a.jsonl", TEXTS), span_bytes=100)[0]
    span.file.unlink()
    with pytest.raises(ConfigError, match=f"^{span.file}: expected a readable file, found "):
        list(iterate_records(span, Keys()))


def test_ids_and_domains_come_with_their_documents(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write_packed(path, b'{"text": "a", "n": 3, "from": "web"}\n')
    (span,) = split_file(path, span_bytes=1)
    document, end = iterate_records(span, Keys(id="n", domain="from"))
    assert document == Document("a", 0, 1, "3", "web", path.stat().st_size)
    assert end == SpanEnd(num_lines=1, input_bytes=0)


@given(content=st.binary() | st.lists(st.sampled_from(PARTS)).map(b"".join))
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt", "a.bin"])
def test_any_bytes_give_records_or_one_line_that_names_the_file(tmp_path_factory, name, content):
    path = tmp_path_factory.getbasetemp() / f"any.{name}"
    for write in (path.write_bytes, lambda data: write_packed(path, data)):
        write(content)
        try:
            spans = split_file(path, span_bytes=7)
            records = [list(iterate_records(span, Keys(id="id"))) for span in spans]
        except ConfigError as error:
            (message,) = str(error).splitlines()
            # Parquet, which bytes that begin with its mark are taken for, has no lines.
            places = (f"{path}:1: expected whole ", f"{path}: expected whole parquet, found ")
            assert message.startswith(places)
        else:
            assert all(isinstance(span[-1], SpanEnd) for span in records)
            assert all(
                isinstance(r, Document | InvalidRecord) for span in records for r in span[:-1]
            )
