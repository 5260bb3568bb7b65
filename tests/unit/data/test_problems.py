from pathlib import Path

import numpy as np

from megadga.data.files import MAX_LISTED, Problems


def test_many_problems_of_one_kind_are_counted_after_the_first():
    problems = Problems()
    for start in (0, 8, 100):  # as a file is read in chunks
        problems.add_all(Path("a"), "gaps", np.arange(start, start + 8), lambda at: f"gap {at}")
    problems.add("another: expected something else")
    lines = [f"a: gap {at}" for at in (*range(8), 8, 9)]
    assert len(lines) == MAX_LISTED
    assert problems.lines == (
        *lines,
        "another: expected something else",
        "a: expected no more gaps, found 14",
    )


def test_kinds_and_files_are_counted_separately():
    problems = Problems()
    for path, kind in (("a", "gaps"), ("b", "gaps"), ("a", "holes")):
        problems.add_all(Path(path), kind, np.arange(MAX_LISTED), lambda at: f"{at}")
    assert len(problems.lines) == 3 * MAX_LISTED
