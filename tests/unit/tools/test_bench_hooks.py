"""What hooks add to a pass, counted."""

from pathlib import Path

from tests.support.jobs import run_tool


def test_operators_of_a_module_are_counted_along_both_directions(tmp_path: Path):
    options = ["--preset", "nano", "--sequences", "2", "--sequence-length", "4", "--rounds", "1"]

    done = run_tool("bench_hooks", tmp_path, *options)

    assert done.code == 0, done.text
    low_rank, whole = done.text.splitlines()[-2:]
    # Of 21 modules 15 take two products, or one with a whole matrix; the norms take seven.
    assert low_rank.strip().startswith("rank 16: 3.5 operators a module beside 10.4 ")
    assert whole.strip().startswith("whole: 2.8 operators a module beside 8.6 ")
