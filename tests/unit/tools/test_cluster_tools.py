"""The tools that train clusters and measure sets by them, run as their users run them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megadga.mixers.basis import read_basis
from megadga.mixers.importance import read_histogram
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.training import train_tokenizer
from tests.support.clusters import SUBJECTS, texts_about, write_subjects
from tests.support.ranks import REPOSITORY
from tests.support.texts import made_up_texts
from tests.support.tools import assert_refused, run_data

TOOL = REPOSITORY / "tools" / "bench_clusters.py"
NAMES = ("cluster", "histogram")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with texts on four subjects, a tokenizer, and clusters made by the tool."""
    work = tmp_path_factory.mktemp("work")
    (work / "text").mkdir()
    write_subjects(work / "text")
    texts = [text for subject in SUBJECTS for text in texts_about(subject, 20)]
    train_tokenizer(texts + made_up_texts(200), vocab_size=400, prefix=work / "small")
    done = run_data(
        "cluster", "--input", f"{work}/text/*", "--levels", 4, 16, "--seed", 2,
        "--tokenizer", work / "small.model", "--piece-tokens", 32,
        "--output", work / "clusters", "--workers", 2,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (work / "printed.txt").write_text(done.stdout)
    return work


def measure(work: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_data("histogram", "--clusters", work / "clusters", *arguments)


def test_training_says_what_it_wrote(work):
    fingerprint = Clustering.load(work / "clusters").fingerprint
    assert (work / "printed.txt").read_text() == (
        f"{work / 'clusters'}: 4, 16 clusters, fingerprint {fingerprint[:12]}\n"
    )


def test_one_set_gives_the_histogram_that_a_configuration_reads(work, tmp_path):
    output = tmp_path / "sea.json"
    done = measure(
        work, "--level", 16, "--input", f"sea={work}/text/sea.jsonl", "--output", output
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sea: in ")
    shares = read_histogram(output)
    assert list(shares) == [f"c{number:02d}" for number in range(16)]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)


def test_several_sets_give_a_basis(work, tmp_path):
    output = tmp_path / "basis.npz"
    done = measure(
        work, "--level", 16, "--output", output, "--smooth", 3, "--temperature", 0.2,
        "--tokenizer", work / "small.model", "--piece-tokens", 32,
        "--input", f"sea={work}/text/sea.jsonl", "--input", f"rest={work}/text/[ck]*",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["sea", "rest"]
    assert read_basis(output).names == ("sea", "rest")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--levels": ("4", "6")}, "levels: expected a multiple of 4 that is larger, found 6"),
        ({"--input": ("none",)}, "none: expected a file or folder, found none"),
        ({"--workers": ("0",)}, "workers: expected at least 1, found 0"),
        ({"--seed": ("-1",)}, "seed: expected 0 <= N < 2^32, found -1"),
        ({"--piece-tokens": ("9",)}, "piece_tokens and tokenizer: expected both or neither"),
        ({"--embedder": ("none",)}, "none: expected the directory of a sentence-transformers"),
        ({"--text-key": ("body",)}, "body: expected a string, found only text"),
    ],
)
def test_bad_options_are_refused_in_one_line_and_nothing_is_written(
    work, tmp_path, changes, message
):
    options = {
        "--input": (f"{work}/text/*",),
        "--levels": ("4",),
        "--output": (f"{tmp_path}/out",),
        "--workers": ("1",),
        **changes,
    }
    arguments = [part for name, values in options.items() for part in (name, *values)]
    assert_refused(run_data("cluster", *arguments), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--clusters": "none"}, "none/clusters.json: expected a clustering, found No such file"),
        ({"--level": "8"}, "level: expected one of 4, 16, found 8"),
        ({"--input": "sea"}, "sea: expected NAME=GLOB, found something else"),
        ({"--output": "out.csv"}, "out.csv: expected a name that ends in .json or .npz"),
        ({"--smooth": "0"}, "nearest: expected at least 1, found 0"),
    ],
)
def test_bad_measurements_are_refused_in_one_line(work, tmp_path, changes, message):
    options = {
        "--clusters": f"{work}/clusters",
        "--level": "16",
        "--input": f"sea={work}/text/sea.jsonl",
        "--output": f"{tmp_path}/out.json",
        **changes,
    }
    done = run_data("histogram", *(part for pair in options.items() for part in pair))
    assert_refused(done, message)
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_prints_and_writes_the_same_numbers(work, tmp_path):
    output = tmp_path / "bench" / "clusters.json"
    command = [
        sys.executable, TOOL, "--input", f"{work}/text/*", "--vocab-size", "400",
        "--workers", "1", "--output", output,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert json.loads(output.read_text()) == record
    assert [level["clusters"] for level in record["levels"]] == [64, 4096]
    assert all(level["purity"] > 0.99 for level in record["levels"])
    assert record["texts"] >= 240
    assert record["largest_process_mib"] > 50


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_with_an_example(name):
    done = run_data(name, "--help")
    assert done.returncode == 0
    assert f"megadga data {name} " in done.stdout
