import pytest

from megadga.errors import ResumeError
from megadga.run_folder.rewinds import Rewind, clear_rewinds, read_rewinds, write_rewinds

REWINDS = (
    Rewind(21, "step-00000016", (20, 21), "a loss of 9"),
    Rewind(22, "step-00000016", (22,), "a loss of 8"),
)


def test_what_is_written_is_read(tmp_path):
    assert read_rewinds(tmp_path) == ()
    write_rewinds(tmp_path, REWINDS)
    assert read_rewinds(tmp_path) == REWINDS
    clear_rewinds(tmp_path)
    assert read_rewinds(tmp_path) == ()
    clear_rewinds(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"step": 1}]', '[{"step": 1, "checkpoint": "a", "left_out": 3}]']
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "rewinds.json").write_text(text)
    with pytest.raises(ResumeError, match=r"rewinds\.json: expected .*, found "):
        read_rewinds(tmp_path)
