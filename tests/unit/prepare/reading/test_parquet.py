"""Parquet files: their columns, their rows, and what is damaged about them."""

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.prepare.reading.documents import iterate_records, split_file
from megadga.prepare.reading.records import Document, InvalidRecord, Keys, SpanEnd

TEXTS = ["first", "with\nnewline", "é🎉\x00"]


def write(path: Path, table: pa.Table, **options) -> Path:
    pq.write_table(table, path, **options)
    return path


def read_spans(path: Path, keys: Keys, *, span_bytes: int = 1 << 30):
    """The records of the file, and the ends of its spans."""
    records: list[Document | InvalidRecord] = []
    ends: list[SpanEnd] = []
    for span in split_file(path, span_bytes=span_bytes):
        for record in iterate_records(span, keys):
            if isinstance(record, SpanEnd):
                ends.append(record)
            else:
                records.append(record)
    return records, ends


def documents(path: Path, keys: Keys):
    """Text, id and domain of the file's records, all of which are good."""
    records, _ = read_spans(path, keys)
    good = [record for record in records if isinstance(record, Document)]
    assert good == records
    return [(document.text, document.id, document.domain) for document in good]


def rejects(path: Path, keys: Keys):
    """The file's records but for the first, all of which are bad."""
    (good, *others), _ = read_spans(path, keys)
    bad = [record for record in others if isinstance(record, InvalidRecord)]
    assert isinstance(good, Document)
    assert bad == others
    return bad


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_text_is_read_from_columns_of_every_type_of_string(tmp_path, kind):
    path = write(tmp_path / "a.parquet", pa.table({"text": pa.array(TEXTS, kind)}))
    assert [text for text, _, _ in documents(path, Keys())] == TEXTS


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_text_is_read_whatever_the_compression(tmp_path, compression):
    table = pa.table({"text": TEXTS})
    path = write(tmp_path / "a.parquet", table, compression=compression)
    assert [text for text, _, _ in documents(path, Keys())] == TEXTS


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.string()], ids=str)
def test_ids_are_integers_or_strings(tmp_path, kind):
    ids = pa.array([7, 8, 9]).cast(kind)
    path = write(tmp_path / "a.parquet", pa.table({"text": TEXTS, "key": ids}))
    assert [id_ for _, id_, _ in documents(path, Keys(id="key"))] == ["7", "8", "9"]


def test_a_key_with_dots_goes_into_structs(tmp_path):
    meta = [{"from": {"name": name, "x": 1}, "y": "z"} for name in ("a", "b", "a")]
    path = write(tmp_path / "a.parquet", pa.table({"meta": meta, "text": TEXTS}))
    found = documents(path, Keys(domain="meta.from.name"))
    assert [domain for _, _, domain in found] == ["a", "b", "a"]


def test_a_column_that_is_called_so_comes_before_a_struct(tmp_path):
    table = pa.table({"a": [{"b": "nested"}], "a.b": ["literal"]})
    path = write(tmp_path / "a.parquet", table)
    assert documents(path, Keys("a.b")) == [("literal", None, None)]


def test_one_column_may_be_read_for_several_purposes(tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"text": ["a"]}))
    assert documents(path, Keys("text", "text", "text")) == [("a", "a", "a")]


def test_bad_rows_are_rejected_by_number_with_their_reason(tmp_path):
    table = pa.table(
        {
            "text": ["good", None, "", "a", "b", "c"],
            "id": [1, 2, 3, None, 5, 6],
            "meta": [{"d": "x"}] * 4 + [None, {"d": "x/y"}],
        }
    )
    path = write(tmp_path / "a.parquet", table)
    bad = rejects(path, Keys(id="id", domain="meta.d"))
    assert [(reject.position, reject.line, reject.reason[:40]) for reject in bad] == [
        (1, 2, "text: expected a string, found null"),
        (2, 3, "text: expected text, found none"),
        (3, 4, "id: expected a string or an integer, fou"),
        (4, 5, "meta.d: expected a string, found null"),
        (5, 6, "meta.d: expected a name for a folder, of"),
    ]
    assert [reject.empty for reject in bad] == [False, True, False, False, False]


def test_text_that_is_not_utf8_is_rejected_alone(tmp_path):
    good, bad = b"good", b"caf\xe9"
    ends = pa.py_buffer(b"".join(end.to_bytes(4, "little") for end in (0, 4, 8)))
    texts = pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(good + bad)])
    path = write(tmp_path / "a.parquet", pa.table({"text": texts}))
    (bad,) = rejects(path, Keys())
    assert bad.reason.startswith("text: expected UTF-8 text, found 'utf-8' codec can't decode")


def test_a_column_of_nothing_but_null_is_no_damage(tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"text": ["a", "b"], "id": pa.nulls(2)}))
    records, _ = read_spans(path, Keys(id="id"))
    reason = "id: expected a string or an integer, found null"
    assert records == [
        InvalidRecord(0, 1, reason, empty=False, input_bytes=records[0].input_bytes),
        InvalidRecord(1, 2, reason, empty=False, input_bytes=records[1].input_bytes),
    ]


@pytest.mark.parametrize(
    ("table", "keys", "message"),
    [
        ({"a": ["x"], "b": [1]}, Keys(), "text: expected one such column, found a, b"),
        ({"m": [{"a": 1}]}, Keys("m.b"), "m.b: expected one such column, found a in m"),
        ({"m": ["x"]}, Keys("m.b"), "m.b: expected a struct at m, found string"),
        ({"text": [{"a\n": 1}]}, Keys(), "text: expected a string, found 'struct<a\\n: int64>'"),
        ({"text": [1]}, Keys(), "text: expected a string, found int64"),
        ({"text": [b"x"]}, Keys(), "text: expected a string, found binary"),
        ({"text": [["x"]]}, Keys(), "text: expected a string, found list<element: string>"),
        (
            {"text": ["x"], "id": [1.0]},
            Keys(id="id"),
            "id: expected a string or an integer, found double",
        ),
        ({"text": ["x"], "d": [1]}, Keys(domain="d"), "d: expected a string, found int64"),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_refused(tmp_path, table, keys, message):
    path = write(tmp_path / "a.parquet", pa.table(table))
    with pytest.raises(ConfigError) as refused:
        read_spans(path, keys)
    assert str(refused.value) == f"{path}: {message}"


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), max_size=40),
    rows=st.integers(1, 10),
    span_bytes=st.integers(1, 3000),
)
def test_rows_are_read_the_same_wherever_the_file_is_cut(
    tmp_path_factory, texts, rows, span_bytes
):
    path = tmp_path_factory.getbasetemp() / "cut.parquet"
    write(path, pa.table({"text": pa.array(texts, pa.string())}), row_group_size=rows)
    records, ends = read_spans(path, Keys(), span_bytes=span_bytes)
    assert [(record.position, record.line) for record in records] == [
        (row, row + 1) for row in range(len(texts))
    ]
    assert [r.text for r in records if isinstance(r, Document)] == [t for t in texts if t.strip()]
    assert sum(end.num_lines for end in ends) == len(texts)
    assert sum(item.input_bytes for item in (*records, *ends)) == path.stat().st_size


def test_long_rows_are_read_in_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("megadga.prepare.reading.parquet.BATCH_BYTES", 100)
    texts = [f"{number}" * 40 for number in range(9)]
    path = write(tmp_path / "a.parquet", pa.table({"text": texts}))
    assert [text for text, _, _ in documents(path, Keys())] == texts


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", pa.table({"text": TEXTS}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r'the package pyarrow .* install "megadga\[data\]"$'):
        read_spans(path, Keys())


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no-such\.parquet: expected a readable file, found "):
        read_spans(tmp_path / "no-such.parquet", Keys())


def valid_file() -> bytes:
    table = pa.table({"text": TEXTS * 10, "id": range(30), "m": [{"d": "x"}, None, None] * 10})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=10)
    return file.getvalue()


VALID = valid_file()


@given(
    content=st.binary()
    | st.tuples(st.integers(0, len(VALID) - 1), st.binary(max_size=3)).map(
        lambda change: VALID[: change[0]] + change[1] + VALID[change[0] + len(change[1]) :]
    )
    | st.integers(0, len(VALID)).map(lambda length: VALID[:length])
)
@example(content=b"")
@example(content=b"PAR1" * 3)
def test_any_bytes_give_records_or_one_line_that_names_the_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    path.write_bytes(content)
    try:
        records, ends = read_spans(path, Keys(id="id", domain="m.d"), span_bytes=1)
    except ConfigError as error:
        (message,) = str(error).splitlines()
        assert message.startswith(f"{path}: ")
    else:
        assert sum(end.num_lines for end in ends) == len(records)
        assert sum(item.input_bytes for item in (*records, *ends)) == len(content)
