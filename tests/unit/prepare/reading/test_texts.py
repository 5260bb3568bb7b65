from hypothesis import given
from hypothesis import strategies as st

from megadga.prepare.reading.documents import (
    CHUNK_CHARACTERS,
    chunk_texts,
    count_bytes,
    read_texts,
)
from tests.support.texts import write_lines


def test_texts_of_all_files_come_in_order_without_empty_ones(tmp_path):
    paths = [
        write_lines(tmp_path / "a.jsonl", ["1", "", "2"], key="body"),
        write_lines(tmp_path / "b.jsonl.gz", ["3"], key="body"),
    ]
    done: list[int] = []
    assert list(read_texts(paths, text_key="body", progress=done.append)) == ["1", "2", "3"]
    assert sum(done) == count_bytes(paths) == sum(path.stat().st_size for path in paths)


@given(st.lists(st.integers(1, CHUNK_CHARACTERS), max_size=8))
def test_chunks_are_closed_once_they_are_full(lengths):
    texts = ["x" * length for length in lengths]
    chunks = list(chunk_texts(iter(texts)))
    assert [text for chunk in chunks for text in chunk] == texts
    for chunk in chunks[:-1]:
        assert sum(map(len, chunk[:-1])) < CHUNK_CHARACTERS <= sum(map(len, chunk))
