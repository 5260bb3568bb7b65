"""The three data tools, run as their users run them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.texts import made_up_texts, write_lines

TOOLS = Path(__file__).parents[3] / "tools"
NAMES = ("train_tokenizer", "build_shards", "inspect_shards")


def run_tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOLS / f"{name}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with text, a tokenizer and the shards of two domains, all made by the tools."""
    work = tmp_path_factory.mktemp("work")
    (work / "text").mkdir()
    write_lines(work / "text" / "novels.jsonl.gz", made_up_texts(80))
    write_lines(work / "text" / "qa.train.jsonl", ["A question? An answer.", ""])
    write_lines(work / "text" / "qa.valid.jsonl", ["Another question?"])
    glob, model = f"{work}/text/*", work / "tok" / "small"
    trained = run_tool("train_tokenizer", "--input", glob, "--vocab-size", 400, "--output", model)
    assert (trained.returncode, trained.stderr) == (0, "")
    assert trained.stdout == f"{model}.model: 400 ids\n"
    built = run_tool(
        "build_shards", "--input", glob, "--tokenizer", f"{model}.model", "--output",
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
    assert last == f"left out 1 of 83 records: {rejects} lists them"


def test_inspect_prints_the_same_table_with_windows(work):
    built = (work / "built.txt").read_text().splitlines()
    done = run_tool("inspect_shards", work / "shards", "--sequence-length", 8, "--verify")
    header, *lines = [line.split() for line in done.stdout.splitlines()]
    assert header == ["domain", "split", "documents", "tokens", "windows", "tokenizer"]
    assert [line[:4] + line[5:] for line in lines] == [line.split() for line in built[1:-1]]
    for _, _, _, tokens, windows, _ in lines:
        assert int(windows.replace(",", "")) == (int(tokens.replace(",", "")) - 1) // 8
    assert (done.returncode, done.stderr) == (0, "")


def test_inspect_decodes_a_document_of_one_domain(work):
    done = run_tool(
        "inspect_shards", work / "shards" / "qa", "--decode", 0,
        "--tokenizer", work / "tok" / "small.model",
    )  # fmt: skip
    header, *text = done.stdout.splitlines()
    assert header.startswith("==> qa: document 0, ")
    assert text == ["A question? An answer."]


def test_inspect_refuses_another_tokenizer(work, tmp_path):
    other = tmp_path / "other"
    run_tool(
        "train_tokenizer", "--input", f"{work}/text/*", "--vocab-size", 390, "--output", other
    )
    done = run_tool(
        "inspect_shards", work / "shards" / "qa", "--decode", 0, "--tokenizer", f"{other}.model"
    )
    assert_refused(done, f"{work / 'shards' / 'qa' / 'manifest.json'}: tokenizer: expected ")


def test_inspect_refuses_a_document_that_does_not_exist(work):
    done = run_tool(
        "inspect_shards", work / "shards" / "qa", "--decode", 1,
        "--tokenizer", work / "tok" / "small.model",
    )  # fmt: skip
    assert_refused(done, "qa: split train: expected a document in [0, 1), found 1")


def test_inspect_refuses_a_damaged_shard(work, tmp_path):
    copy = tmp_path / "qa"
    copy.mkdir()
    for path in (work / "shards" / "qa").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "train-00000.bin").write_bytes(b"\0")
    assert_refused(run_tool("inspect_shards", copy), "train-00000.bin: expected ")


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
    done = run_tool("build_shards", *(part for pair in options.items() for part in pair))
    assert_refused(done, message)
    assert not (tmp_path / "out").exists()


def test_build_refuses_to_overwrite_a_domain(work):
    done = run_tool(
        "build_shards", "--input", f"{work}/text/novels.jsonl.gz",
        "--tokenizer", f"{work}/tok/small.model", "--output", work / "shards",
    )  # fmt: skip
    assert_refused(done, f"{work / 'shards' / 'novels'}: expected no domain of this name yet")


def test_train_explains_a_vocabulary_too_large(work, tmp_path):
    done = run_tool(
        "train_tokenizer", "--input", f"{work}/text/qa.train.jsonl",
        "--vocab-size", 8000, "--output", tmp_path / "tok",
    )  # fmt: skip
    assert_refused(done, "vocab_size: expected at most ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_with_an_example(name):
    done = run_tool(name, "--help")
    assert done.returncode == 0
    assert f"python tools/{name}.py " in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_is_thin(name):
    assert len((TOOLS / f"{name}.py").read_text().splitlines()) <= 60
