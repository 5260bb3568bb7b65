import pytest

from megadga.errors import ConfigError
from megadga.mixers.importance import read_histogram, write_histogram


def test_what_is_written_reads_back_the_same(tmp_path):
    masses = {"c1": 0.1 + 0.2, "c0": 0.0, "größe": 1e-300}
    write_histogram(tmp_path / "h.json", masses)
    assert list(read_histogram(tmp_path / "h.json").items()) == list(masses.items())


def test_a_byte_order_mark_in_front_is_passed_over(tmp_path):
    (tmp_path / "h.json").write_text('{"a": 1.0}', encoding="utf-8-sig")
    assert read_histogram(tmp_path / "h.json") == {"a": 1.0}


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"h\.json: expected to write it, found "):
        write_histogram(tmp_path / "none" / "h.json", {"a": 1.0})
