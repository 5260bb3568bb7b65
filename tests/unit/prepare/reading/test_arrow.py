"""Arrow files and streams, as ``datasets`` writes them: their rows, and what is damaged."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from megadga.errors import ConfigError
from megadga.prepare.reading.documents import iterate_records, split_file
from megadga.prepare.reading.inputs import list_files
from megadga.prepare.reading.records import Document, InvalidRecord, Keys, SpanEnd

KEYS = Keys("text", "meta.id")
TABLE = pa.table({"text": ["first", "é🎉\n", "", "last"], "meta": [{"id": n} for n in range(4)]})


def write(path: Path, table: pa.Table = TABLE, *, new=pa.ipc.new_stream, rows: int = 2) -> Path:
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, rows)
    return path


def read(path: Path, keys: Keys = KEYS):
    (span,) = split_file(path, span_bytes=1)
    return list(iterate_records(span, keys))


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_rows_of_every_batch_are_records(tmp_path, new):
    path = write(tmp_path / "a.arrow", new=new)
    *records, end = read(path)
    documents = [record for record in records if isinstance(record, Document)]
    assert [(each.text, each.id, each.line) for each in documents] == [
        ("first", "0", 1),
        ("é🎉\n", "1", 2),
        ("last", "3", 4),
    ]
    (bad,) = [record for record in records if isinstance(record, InvalidRecord)]
    assert (bad.line, bad.reason, bad.empty) == (3, "text: expected text, found none", True)
    assert end == SpanEnd(4, end.input_bytes)
    assert sum(each.input_bytes for each in (*records, end)) == path.stat().st_size


def test_an_arrow_file_is_recognised_without_its_name(tmp_path):
    path = write(tmp_path / "part", new=pa.ipc.new_file)
    assert len(read(path)) == 5


def test_dialogues_are_lists_of_structs(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write(tmp_path / "a.arrow", pa.table({"messages": [messages]}))
    record, _ = read(path, Keys("messages", chat=True))
    assert isinstance(record, Document)
    assert json.loads(record.text) == {"messages": messages}


@pytest.mark.parametrize("cut", [1, 8, 200])
@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_a_cut_file_is_an_error(tmp_path, new, cut):
    path = write(tmp_path / "a.arrow", new=new)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ConfigError, match=r"a\.arrow: expected whole arrow, found "):
        read(path)


def test_a_column_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="body: expected one such column, found text, meta"):
        read(write(tmp_path / "a.arrow"), Keys("body"))


def test_notes_beside_arrow_files_are_no_documents(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "data-00000-of-00001.arrow")
        for name in ("state.json", "dataset_info.json"):
            (tmp_path / split / name).write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [file.parent.name for file in list_files(tmp_path)] == ["test", "train"]
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "state.json").write_text("{}")
    assert [file.name for file in list_files(alone)] == ["state.json"]


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_damage_ends_in_one_line_if_it_is_seen(tmp_path, new):
    path = write(tmp_path / "a.arrow", new=new)
    whole = path.read_bytes()
    refused: list[str] = []
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x80
        path.write_bytes(damaged)
        try:
            read(path)
        except ConfigError as error:
            refused.append(str(error))
    assert refused
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in refused)
