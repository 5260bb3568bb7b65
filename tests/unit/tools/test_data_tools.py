"""The tools that make shards of text, run as their users run them."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.huggingface import train_byte_level
from tests.support.texts import made_up_texts, write_lines
from tests.support.tools import assert_refused, run_data

NAMES = ("tokenizer", "build")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with text, a tokenizer and the shards of two domains, all made by the tools."""
    work = tmp_path_factory.mktemp("work")
    (work / "text").mkdir()
    write_lines(work / "text" / "novels.jsonl.gz", made_up_texts(80))
    write_lines(work / "text" / "qa.train.jsonl", ["A question? An answer.", ""])
    write_lines(work / "text" / "qa.valid.jsonl", ["Another question?"])
    glob, model = f"{work}/text/*", work / "tok" / "small"
    trained = run_data("tokenizer", "--input", glob, "--vocab-size", 400, "--output", model)
    assert (trained.returncode, trained.stderr) == (0, "")
    *_, left_out, last = trained.stdout.splitlines()
    assert left_out.endswith(f"{work}/text/qa.valid.jsonl")
    assert last == f"{model}.model: 400 ids"
    built = run_data(
        "build", "--input", glob, "--tokenizer", f"{model}.model", "--output",
        work / "shards", "--valid-fraction", 0.2, "--seed", 3, "--workers", 2, "--max-bad", 1,
    )  # fmt: skip
    assert (built.returncode, built.stderr) == (0, "")
    (work / "built.txt").write_text(built.stdout)
    return work


def test_build_prints_a_table_of_every_split(work):
    header, *lines, last = (work / "built.txt").read_text().splitlines()
    assert header.split() == ["domain", "split", "documents", "tokens", "tokenizer"]
    assert [line.split()[:2] for line in lines] == [
        ["novels", "train"],
        ["novels", "valid"],
        ["qa", "train"],
        ["qa", "valid"],
    ]
    (rejects,) = work.glob("shards.rejects-*.jsonl")
    assert last == f"skipped 1 of 83 records, listed in {rejects}"


def test_inspect_prints_the_same_table_with_windows(work):
    built = (work / "built.txt").read_text().splitlines()
    done = run_data("inspect", work / "shards", "--sequence-length", 8)
    header, *lines = [line.split() for line in done.stdout.splitlines()]
    assert header == ["domain", "split", "documents", "tokens", "windows", "tokenizer"]
    assert [line[:4] + line[5:] for line in lines] == [line.split() for line in built[1:-1]]
    for _, _, _, tokens, windows, _ in lines:
        assert int(windows.replace(",", "")) == (int(tokens.replace(",", "")) - 1) // 8
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--input": "no-such.jsonl"}, "no-such.jsonl: expected a file or folder, found none"),
        ({"--tokenizer": "no-such.model"}, "no-such.model: expected a tokenizer, found No such"),
        ({"--valid-fraction": "1.5"}, "valid_fraction: expected 0 <= F < 1, found 1.5"),
        ({"--workers": "0"}, "workers: expected at least 1, found 0"),
        ({"--text-key": "body"}, "novels.jsonl.gz:1: body: expected a string, found only text"),
    ],
)
def test_build_refuses_bad_input_in_one_line_and_writes_nothing(work, tmp_path, changes, message):
    options = {
        "--input": f"{work}/text/novels.jsonl.gz",
        "--tokenizer": f"{work}/tok/small.model",
        "--output": f"{tmp_path}/out",
        "--workers": "1",
        **changes,
    }
    done = run_data("build", *(part for pair in options.items() for part in pair))
    assert_refused(done, message)
    assert not (tmp_path / "out").exists()


def test_build_refuses_to_overwrite_a_domain(work):
    done = run_data(
        "build", "--input", f"{work}/text/novels.jsonl.gz",
        "--tokenizer", f"{work}/tok/small.model", "--output", work / "shards",
    )  # fmt: skip
    assert_refused(done, f"{work / 'shards' / 'novels'}: expected no domain of this name yet")


def test_build_takes_a_hugging_face_tokenizer_and_its_end_of_documents(work, tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json", special=["<|endoftext|>", "<|im_end|>"])
    arguments = (
        "--input", work / "text" / "novels.jsonl.gz", "--tokenizer", tmp_path,
        "--workers", 1, "--output", tmp_path / "shards",
    )  # fmt: skip
    refused = run_data("build", *arguments)
    assert_refused(refused, f"{path}: eod: expected exactly one of ")
    built = run_data("build", *arguments, "--eod", "<|im_end|>")
    assert (built.returncode, built.stderr) == (0, "")
    tokens = np.fromfile(tmp_path / "shards" / "novels" / "train-00000.bin", "<u2")
    assert tokens[-1] == 1


def test_train_explains_a_vocabulary_too_large(work, tmp_path):
    done = run_data(
        "tokenizer", "--input", f"{work}/text/qa.train.jsonl",
        "--vocab-size", 8000, "--output", tmp_path / "tok",
    )  # fmt: skip
    assert_refused(done, "vocab_size: expected at most ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_with_an_example(name):
    done = run_data(name, "--help")
    assert done.returncode == 0
    assert f"megadga data {name} " in done.stdout
