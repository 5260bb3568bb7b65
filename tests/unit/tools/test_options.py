"""Options that every tool takes, and numbers that nobody can mean."""

import importlib.util
import io
import sys
from pathlib import Path

import pytest

from megadga.prepare.clustering.training import ClusteringRecipe, train_clusters
from megadga.prepare.training import train_tokenizer
from tests.support.texts import made_up_texts, write_lines
from tests.support.tools import TOOLS

HUGE = ("9999999999", "9" * 30, "9" * 5000)
NEGATIVE = ("-1", "-9999999999")
NUMBERS = {
    "train_tokenizer": ("--vocab-size", "--max-bad"),
    "build_shards": (
        *("--level", "--piece-tokens", "--valid-fraction", "--seed", "--shard-tokens"),
        *("--max-bad", "--memory", "--workers"),
    ),
    "train_clusters": ("--levels", "--piece-tokens", "--seed", "--workers", "--max-bad"),
    "histogram": ("--level", "--piece-tokens", "--smooth", "--temperature", "--max-bad"),
    "check_leakage": ("--n", "--document-share", "--max-overlap"),
    "inspect_shards": ("--sequence-length", "--decode"),
    "merge_shards": ("--shard-tokens",),
    "verify_shards": ("--workers",),
}
FLOATS = ("--valid-fraction", "--temperature", "--document-share", "--max-overlap")


def run_here(name: str, arguments: list[str], monkeypatch) -> tuple[int | str | None, str]:
    """Run a tool in this process; return its exit code and what it says on standard error."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    errors = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *arguments])
        patch.setattr(sys, "stderr", errors)
        try:
            module.main()
        except SystemExit as error:
            return error.code, errors.getvalue()
    return 0, errors.getvalue()


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
    with pytest.MonkeyPatch.context() as patch:
        arguments = arguments_of("build_shards", work, work / "shards")
        assert run_here("build_shards", arguments, patch) == (0, "")
    return work


def arguments_of(name: str, work: Path, output: Path, *, text: str = "good.jsonl") -> list[str]:
    """Return arguments with which a tool does its work."""
    model, clusters = ["--tokenizer", f"{work}/small.model"], ["--clusters", f"{work}/clusters"]
    reading = ["--input", f"{work}/{text}"]
    return {
        "train_tokenizer": [*reading, "--vocab-size", "300", "--output", str(output)],
        "build_shards": [*reading, *model, "--output", str(output), "--workers", "1"],
        "train_clusters": [*reading, "--levels", "2", "--output", str(output), "--workers", "1"],
        "histogram": [
            *clusters, "--level", "2", "--input", f"one={work}/{text}",
            "--output", f"{output}.json",
        ],
        "check_leakage": ["--domains", f"{work}/shards", "--specific", f"{work}/shards/good"],
        "inspect_shards": [f"{work}/shards"],
        "merge_shards": [f"{work}/shards/good", "--output", str(output)],
        "verify_shards": [f"{work}/shards", "--workers", "1"],
    }[name]  # fmt: skip


def with_option(name: str, option: str, value: str, work: Path, output: Path) -> list[str]:
    arguments = [*arguments_of(name, work, output), f"{option}={value}"]
    model = f"--tokenizer={work}/small.model"
    match name, option:
        case ("train_clusters" | "histogram", "--piece-tokens"):
            arguments.append(model)
        case "build_shards", "--level":
            arguments.append(f"--clusters={work}/clusters")
        case "inspect_shards", "--decode":
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
    work, tmp_path, monkeypatch, name, option
):
    floats = ("nan", "inf", "1e-320") if option in FLOATS else ()
    for place, value in enumerate((*HUGE, *NEGATIVE, *floats)):
        arguments = with_option(name, option, value, work, tmp_path / f"{place}")
        code, errors = run_here(name, arguments, monkeypatch)
        assert code in (0, 2), f"{option}={value}"
        if code == 2:
            assert "expected" in errors or "invalid int value" in errors
        if value in NEGATIVE:
            assert code == 2, f"{option}={value}"


@pytest.mark.parametrize("name", ["train_tokenizer", "train_clusters", "histogram"])
@pytest.mark.parametrize("max_bad", ["1", "3%"])
def test_a_bad_record_is_excluded_where_it_is_allowed_and_named(
    work, tmp_path, monkeypatch, capsys, name, max_bad
):
    reading = arguments_of(name, work, tmp_path / "out", text="bad.jsonl")
    code, errors = run_here(name, reading, monkeypatch)
    assert code == 2
    assert f"{work}/bad.jsonl:41: text: expected a string, found only txt\n" in errors
    assert run_here(name, [*reading, f"--max-bad={max_bad}"], monkeypatch) == (0, "")
    assert "skipped 1 of 41 records, the first: " in capsys.readouterr().out
    code, errors = run_here(name, [*reading, "--max-bad=2%"], monkeypatch)
    assert code == 2


@pytest.mark.parametrize("name", ["train_tokenizer", "train_clusters", "histogram"])
def test_what_bad_records_leave_is_what_there_would_be_without_them(work, tmp_path, name):
    with pytest.MonkeyPatch.context() as patch:
        for text in ("good", "bad"):
            (tmp_path / text).mkdir()
            arguments = arguments_of(name, work, tmp_path / text / "out", text=f"{text}.jsonl")
            assert run_here(name, [*arguments, "--max-bad=1"], patch)[0] == 0
    good, bad = (
        {path.name: path.read_bytes() for path in (tmp_path / text).rglob("*") if path.is_file()}
        for text in ("good", "bad")
    )
    assert good
    assert good == bad
