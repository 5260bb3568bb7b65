"""Options that the commands of `megadga data` take, and numbers that nobody can mean."""

from pathlib import Path

import pytest

from megadga.prepare.clustering.training import ClusteringRecipe, train_clusters
from megadga.prepare.training import train_tokenizer
from tests.support.texts import made_up_texts, write_lines
from tests.support.tools import run_data

HUGE = ("9999999999", "9" * 30, "9" * 5000)
NEGATIVE = ("-1", "-9999999999")
NUMBERS = {
    "tokenizer": ("--vocab-size", "--max-bad"),
    "build": (
        *("--level", "--piece-tokens", "--valid-fraction", "--seed", "--shard-tokens"),
        *("--max-bad", "--memory", "--workers"),
    ),
    "cluster": ("--levels", "--piece-tokens", "--seed", "--workers", "--max-bad"),
    "histogram": ("--level", "--piece-tokens", "--smooth", "--temperature", "--max-bad"),
    "leakage": ("--n", "--document-share", "--max-overlap"),
    "inspect": ("--sequence-length", "--decode"),
    "merge": ("--shard-tokens",),
    "verify": ("--workers",),
}
FLOATS = ("--valid-fraction", "--temperature", "--document-share", "--max-overlap")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with text, one bad record in it, a tokenizer, clusters and shards."""
    work = tmp_path_factory.mktemp("work")
    texts = made_up_texts(40)
    path = write_lines(work / "good.jsonl", texts)
    bad = path.read_text() + '{"txt": 1}\n'
    (work / "bad.jsonl").write_text(bad)
    train_tokenizer(texts, vocab_size=400, prefix=work / "small")
    train_clusters([path], work / "clusters", ClusteringRecipe((2,)))
    built = run_data("build", *arguments_of("build", work, work / "shards"))
    assert (built.returncode, built.stderr) == (0, "")
    return work


def arguments_of(name: str, work: Path, output: Path, *, text: str = "good.jsonl") -> list[str]:
    """Return arguments with which a tool does its work."""
    model, clusters = ["--tokenizer", f"{work}/small.model"], ["--clusters", f"{work}/clusters"]
    reading = ["--input", f"{work}/{text}"]
    return {
        "tokenizer": [*reading, "--vocab-size", "300", "--output", str(output)],
        "build": [*reading, *model, "--output", str(output), "--workers", "1"],
        "cluster": [*reading, "--levels", "2", "--output", str(output), "--workers", "1"],
        "histogram": [
            *clusters, "--level", "2", "--input", f"one={work}/{text}",
            "--output", f"{output}.json",
        ],
        "leakage": ["--domains", f"{work}/shards", "--specific", f"{work}/shards/good"],
        "inspect": [f"{work}/shards"],
        "merge": [f"{work}/shards/good", "--output", str(output)],
        "verify": [f"{work}/shards", "--workers", "1"],
    }[name]  # fmt: skip


def with_option(name: str, option: str, value: str, work: Path, output: Path) -> list[str]:
    arguments = [*arguments_of(name, work, output), f"{option}={value}"]
    model = f"--tokenizer={work}/small.model"
    match name, option:
        case ("cluster" | "histogram", "--piece-tokens"):
            arguments.append(model)
        case "build", "--level":
            arguments.append(f"--clusters={work}/clusters")
        case "inspect", "--decode":
            arguments.append(model)
        case "histogram", "--temperature":
            arguments.append("--smooth=2")
        case _:
            pass
    return arguments


@pytest.mark.parametrize(
    ("name", "option"), [(name, one) for name, options in NUMBERS.items() for one in options]
)
def test_numbers_that_nobody_can_mean_are_refused_or_make_no_difference(
    work, tmp_path, name, option
):
    floats = ("nan", "inf", "1e-320") if option in FLOATS else ()
    for place, value in enumerate((*HUGE, *NEGATIVE, *floats)):
        arguments = with_option(name, option, value, work, tmp_path / f"{place}")
        done = run_data(name, *arguments)
        assert done.returncode in (0, 2), f"{option}={value}"
        if done.returncode == 2:
            assert "expected" in done.stderr or "invalid int value" in done.stderr
        if value in NEGATIVE:
            assert done.returncode == 2, f"{option}={value}"


@pytest.mark.parametrize("name", ["tokenizer", "cluster", "histogram"])
@pytest.mark.parametrize("max_bad", ["1", "3%"])
def test_a_bad_record_is_excluded_where_it_is_allowed_and_named(work, tmp_path, name, max_bad):
    reading = arguments_of(name, work, tmp_path / "out", text="bad.jsonl")
    refused = run_data(name, *reading)
    assert refused.returncode == 2
    assert f"{work}/bad.jsonl:41: text: expected a string, found only txt\n" in refused.stderr
    done = run_data(name, *reading, f"--max-bad={max_bad}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped 1 of 41 records, the first: " in done.stdout
    assert run_data(name, *reading, "--max-bad=2%").returncode == 2


@pytest.mark.parametrize("name", ["tokenizer", "cluster", "histogram"])
def test_what_bad_records_leave_is_what_there_would_be_without_them(work, tmp_path, name):
    for text in ("good", "bad"):
        (tmp_path / text).mkdir()
        arguments = arguments_of(name, work, tmp_path / text / "out", text=f"{text}.jsonl")
        assert run_data(name, *arguments, "--max-bad=1").returncode == 0
    good, bad = (
        {path.name: path.read_bytes() for path in (tmp_path / text).rglob("*") if path.is_file()}
        for text in ("good", "bad")
    )
    assert good
    assert good == bad
