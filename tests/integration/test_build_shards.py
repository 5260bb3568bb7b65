"""The build as clusters run it: ranks of MPI, workers, and kills in the middle of it."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from megadga.data.indexed import IndexedShard
from megadga.prepare.training import train_tokenizer
from tests.support.raw_shards import problems_of
from tests.support.texts import made_up_texts

REPOSITORY = Path(__file__).parents[2]
BUILD = ("-m", "megadga.cli", "data", "build")
MPIRUN = Path(sys.executable).with_name("mpirun")
NUM_KILLS = 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("tokenizer") / "small"
    return train_tokenizer(made_up_texts(200), vocab_size=400, prefix=prefix).path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twelve files of very different sizes, in two formats, one of them with bad records."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(12):
        texts = made_up_texts(400 + 400 * (number % 4), seed=number)
        records = [{"text": text, "id": f"{number}/{i}"} for i, text in enumerate(texts)]
        lines = [json.dumps(record).encode() + b"\n" for record in records]
        if number == 5:
            lines.insert(7, b'{"text": 3, "id": "bad"}\n')
        path = folder / (f"d{number:02d}.jsonl" + ".gz" * (number % 2))
        path.write_bytes(gzip.compress(b"".join(lines)) if number % 2 else b"".join(lines))
    return folder


def build_to(output: Path, corpus: Path, tokenizer: Path) -> list[str]:
    return [
        *BUILD, "--input", f"{corpus}/*", "--tokenizer", str(tokenizer), "--id-key", "id",
        "--output", str(output), "--max-bad", "1", "--shard-tokens", "10000", "--memory", "1",
    ]  # fmt: skip


@pytest.fixture
def arguments(corpus, tokenizer, tmp_path):
    return lambda output: build_to(tmp_path / output, corpus, tokenizer)


@pytest.fixture(autouse=True)
def contained(monkeypatch):
    """Have MPI leave its files, those of killed ranks too, where they are removed."""
    with TemporaryDirectory(prefix="mpi-") as folder:  # a short path: sockets are in it
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("OMPI_MCA_btl_sm_backing_directory", folder)
        monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
        monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        yield


@pytest.fixture(scope="module")
def one(corpus, tokenizer, tmp_path_factory) -> tuple[Path, str]:
    """What one process writes, in a folder called ``one``, and what it prints."""
    folder = tmp_path_factory.mktemp("one")
    printed = run([sys.executable, *build_to(folder / "one", corpus, tokenizer), "--workers", "1"])
    return folder, printed


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def run(command: list[str]) -> str:
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_ranks_workers_and_one_process_write_the_same_bytes(arguments, tmp_path, one):
    folder, text = one
    printed = [
        text,
        run([sys.executable, *arguments("two"), "--workers", "2"]),
        run([str(MPIRUN), "--oversubscribe", "-n", "4", sys.executable, *arguments("ranks")]),
    ]
    alone, two, ranks = map(read_tree, (folder / "one", tmp_path / "two", tmp_path / "ranks"))
    assert len([name for name in alone if name.endswith(".bin")]) > 24
    assert alone == two
    assert alone == ranks
    tables = [text.splitlines()[:-1] for text in printed]
    assert tables[0] == tables[1] == tables[2]
    rejects = [
        path.read_bytes() for at in (folder, tmp_path) for path in at.glob("*.rejects-*.jsonl")
    ]
    assert len(rejects) == 3
    assert len(set(rejects)) == 1


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(arguments, tmp_path, one):
    command = [sys.executable, *arguments("killed"), "--workers", "2"]
    rng = random.Random(17)
    finished = 0
    for _ in range(NUM_KILLS):
        process = start(command)
        wait_for_finished(tmp_path, finished + rng.randint(1, 8), process)
        time.sleep(rng.uniform(0.0, 0.2))
        kill_with_workers(process)
        assert count_finished(tmp_path) >= finished
        finished = count_finished(tmp_path)
        assert_nothing_is_half(tmp_path)
    run(command)
    assert read_tree(tmp_path / "killed") == read_tree(one[0] / "one")
    assert not (tmp_path / ".killed.building").exists()


def test_ranks_that_were_killed_go_on_as_workers(arguments, tmp_path, one):
    ranks = [str(MPIRUN), "--oversubscribe", "-n", "3", sys.executable, *arguments("killed")]
    process = start(ranks)
    wait_for_finished(tmp_path, 4, process)
    kill_with_workers(process)
    run([sys.executable, *arguments("killed"), "--workers", "2"])
    assert read_tree(tmp_path / "killed") == read_tree(one[0] / "one")


def test_a_killed_worker_ends_the_build_with_one_line(arguments, tmp_path):
    process = start([sys.executable, *arguments("killed"), "--workers", "2"])
    wait_for_finished(tmp_path, 1, process)
    children = psutil.Process(process.pid).children()
    next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("megadga data build: workers: expected 2 running, found one dead")


def test_an_interrupted_build_says_how_to_go_on(arguments, tmp_path):
    process = start([sys.executable, *arguments("killed"), "--workers", "2"])
    wait_for_finished(tmp_path, 1, process)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "megadga data build: interrupted; the same command continues\n"


def test_a_second_build_at_the_same_place_is_refused(arguments, tmp_path):
    command = [sys.executable, *arguments("killed"), "--workers", "2"]
    process = start(command)
    wait_for_finished(tmp_path, 1, process)
    second = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    kill_with_workers(process)
    assert second.returncode == 2
    assert second.stderr.endswith("expected no other build in progress, found one\n")


def test_ranks_that_cannot_see_each_other_are_refused(arguments):
    """As under an ``mpirun`` of another MPI than mpi4py's: several worlds of one rank."""
    foreign = {**environment(), "OMPI_COMM_WORLD_SIZE": "4"}
    done = subprocess.run(
        [sys.executable, *arguments("out")],
        env=foreign, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "mpirun: expected 4 ranks, found 1: mpi4py was built for another MPI" in done.stderr


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Tests that run in the background inherit a SIGINT that is ignored.
        ["env", "--default-signal=INT", *command],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def count_finished(tmp_path: Path) -> int:
    """Return how many tasks and shards of the build called ``killed`` are finished."""
    return sum(1 for _ in (tmp_path / ".killed.building").rglob("*.json"))


def wait_for_finished(tmp_path: Path, count: int, process: subprocess.Popen[str]) -> None:
    while count_finished(tmp_path) <= count:  # the plan is one, too
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)


def kill_with_workers(process: subprocess.Popen[str]) -> None:
    """Kill the program alone; its workers must end by themselves."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def assert_nothing_is_half(tmp_path: Path) -> None:
    """Check that all that has a final name is whole: shards that can be opened, with manifests."""
    for folder in (tmp_path / "killed").glob("*/"):
        assert problems_of(folder) == []
    for path in (tmp_path / ".killed.building" / "merged").rglob("*.idx"):
        IndexedShard.open(path.with_suffix("")).document_bounds  # noqa: B018  (raises)
