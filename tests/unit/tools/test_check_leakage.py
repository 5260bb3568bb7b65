"""The leakage tool, run as its users run it."""

import json

import pytest

from tests.support.leaks import write_leak
from tests.support.tools import run_data


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = write_leak(tmp_path_factory.mktemp("leak"))
    return ("--domains", f"{folder}/domains", "--specific", f"{folder}/specific")


def test_a_leak_is_shown_and_is_no_failure_unless_it_is_asked_to_be(sets, tmp_path):
    done = run_data("leakage", *sets, "--json", tmp_path / "leakage.json")
    assert (done.returncode, done.stderr) == (0, "")
    header, titles, worst, *_ = done.stdout.splitlines()
    assert header.startswith("specific: 5 held-out documents, 112 n-grams of 13 tokens; ")
    assert titles.split()[0] == "domain"
    assert worst.split()[:4] == ["leaky", "28", "25.00%", "1"]
    (written,) = json.loads((tmp_path / "leakage.json").read_text())
    assert written["domains"][0]["share"] == 0.25


def test_more_than_the_limit_is_exit_code_1_and_names_the_domain(sets):
    done = run_data("leakage", *sets, "--n", 8, "--max-overlap", 0.27)
    assert done.returncode == 1
    assert done.stderr == (
        "megadga data leakage: specific: expected at most 27.00% of its held-out n-grams in one "
        "place, found 27.27% in leaky, 27.27% in all domains\n"
    )
    assert run_data("leakage", *sets, "--n", 8, "--max-overlap", 0.28).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "0"], "n: expected at least 1 token, found 0"),
        (["--n", "41"], "split valid: expected a document with 41 tokens in a row (n), found 5"),
        (["--max-overlap", "27"], "max_overlap: expected 0 <= F <= 1, found 27.0"),
        (["--domains", "no-such-folder"], "no-such-folder: expected a folder with one folder per"),
        (["--tokenizer", "no-such.model"], "no-such.model: expected a tokenizer, found No such"),
        (["--json", "no/such.json"], "no/such.json: expected to write it, found No such file"),
    ],
)
def test_what_cannot_be_found_out_is_one_line_and_exit_code_2(sets, options, message):
    done = run_data("leakage", *sets, *options)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message in line


def test_help_teaches_with_an_example():
    done = run_data("leakage", "--help")
    assert done.returncode == 0
    assert "megadga data leakage " in done.stdout
