import gzip

import pytest

from megadga.errors import ConfigError
from megadga.prepare.documents import count_input_bytes, iterate_documents
from tests.support.texts import write_lines

TEXTS = ["first", "with\nnewline and \u2028 separator", "", "é🎉\x00"]


def read_texts(path, **options):
    return [document.text for document in iterate_documents(path, **options)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_give_a_document_each(tmp_path, name):
    assert read_texts(write_lines(tmp_path / name, TEXTS)) == TEXTS


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


def test_blank_lines_are_no_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n  \n{"text": "b"}')
    assert read_texts(path) == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt"])
def test_the_bytes_read_add_up_to_the_input(tmp_path, name):
    path = write_lines(tmp_path / name, ["some text"] * 5000)
    documents = list(iterate_documents(tmp_path))
    assert sum(document.input_bytes for document in documents) == path.stat().st_size
    assert count_input_bytes(tmp_path) == path.stat().st_size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "expected one JSON object, found Expecting property name"),
        (b'{"text": "a"} {}', "expected one JSON object, found Extra data"),
        (b'{"text": "\xff"}', "expected one JSON object, found 'utf-8' codec can't decode"),
        (b'["a"]', "expected a JSON object, found list"),
        (b'{"content": "a", "id": 1}', "text: expected a string, found only content, id"),
        (b"{}", "text: expected a string, found only none"),
        (b'{"text": null}', "text: expected a string, found NoneType"),
        (b'{"text": "\\ud83d"}', "text: expected Unicode text, found 'utf-8' codec can't encode"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(ConfigError, match=f"^{path}:2: {message}"):
        read_texts(path)


def test_truncated_gzip_is_refused(tmp_path):
    path = write_lines(tmp_path / "a.jsonl.gz", [str(number) for number in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=rf"^{path}:\d+: expected whole gzip, found "):
        read_texts(path)


def test_what_is_called_gz_but_is_not_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"text": "plain"}\n')
    with pytest.raises(ConfigError, match=f"^{path}:1: expected whole gzip, found Not a gzipped"):
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
    with pytest.raises(ConfigError, match=f"^{path}: expected UTF-8 text, found .* position 3"):
        read_texts(path)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no-such: expected a file or folder, found none"):
        read_texts(tmp_path / "no-such")
