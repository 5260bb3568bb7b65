from pathlib import Path

import pytest

from megadga.errors import ConfigError
from megadga.prepare.pipeline.corpus import (
    SourceFile,
    corpus_by_input,
    corpus_of_files,
    plan_tasks,
)
from megadga.prepare.reading.inputs import DomainInput


def write(path: Path, size: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\n" * size)
    return path


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    monkeypatch.setattr("megadga.prepare.pipeline.corpus.MIN_TASK_BYTES", 100)


def spans(tasks) -> list[list[tuple[str, int, int | None]]]:
    return [
        [(part.source.path.name, part.span.start, part.span.stop) for part in task.parts]
        for task in tasks
    ]


def test_an_input_is_a_domain_and_files_are_numbered_within_it(tmp_path):
    folder = [write(tmp_path / "web" / name, 1) for name in ("b.txt", "a.txt")]
    train, valid = (write(tmp_path / f"qa.{split}.jsonl", 1) for split in ("train", "valid"))
    inputs = [DomainInput("web", tmp_path / "web", None), DomainInput("qa", train, valid)]
    corpus = corpus_by_input(inputs, valid_fraction=0.1)
    assert corpus.names == ("web", "qa")
    assert corpus.sources == (
        SourceFile(folder[1], 0, 0, 0.1),
        SourceFile(folder[0], 1, 0, 0.1),
        SourceFile(train, 0, 1, 0.0),
        SourceFile(valid, 1, 1, 1.0),
    )


def test_files_of_a_folder_are_of_the_split_that_they_say(tmp_path):
    names = ("train-0.jsonl", "train-1.jsonl", "valid-0.jsonl", "test-0.jsonl", "README.md")
    files = [write(tmp_path / "qa" / name, 1) for name in names]
    inputs = [DomainInput("qa", tmp_path / "qa", None)]
    assert corpus_by_input(inputs, valid_fraction=0.1).sources == (
        SourceFile(files[0], 0, 0, 0.0),
        SourceFile(files[1], 1, 0, 0.0),
        SourceFile(files[2], 2, 0, 1.0),
    )


def test_files_without_a_domain_leave_it_to_their_documents(tmp_path):
    files = [write(tmp_path / name, 1) for name in ("a.jsonl", "b.jsonl")]
    corpus = corpus_of_files(files, valid_fraction=0.1)
    assert corpus.names is None
    assert corpus.sources == (
        SourceFile(files[0], 0, None, 0.1),
        SourceFile(files[1], 1, None, 0.1),
    )


def test_small_files_share_a_task_and_large_ones_are_cut(tmp_path):
    files = [
        write(tmp_path / name, size)
        for name, size in (("a.jsonl", 30), ("b.txt", 60), ("c.jsonl", 250), ("d.txt", 400))
    ]
    tasks = plan_tasks(corpus_of_files(files, valid_fraction=0.0))
    assert spans(tasks) == [
        [("a.jsonl", 0, None), ("b.txt", 0, None)],
        [("c.jsonl", 0, 100)],
        [("c.jsonl", 100, 200)],
        [("c.jsonl", 200, None)],
        [("d.txt", 0, None)],
    ]
    assert [task.input_bytes for task in tasks] == [90, 100, 100, 50, 400]


def test_tasks_grow_with_the_corpus_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("megadga.prepare.pipeline.corpus.TASKS_WANTED", 4)
    monkeypatch.setattr("megadga.prepare.pipeline.corpus.MAX_TASK_BYTES", 500)
    counts = []
    for size in (100, 1000, 2000, 4000):
        corpus = corpus_of_files([write(tmp_path / f"{size}.jsonl", size)], valid_fraction=0.0)
        counts.append(len(plan_tasks(corpus)))
    assert counts == [1, 4, 4, 8]


def test_all_of_a_small_corpus_is_checked_and_a_part_of_every_file_of_a_large_one(
    tmp_path, monkeypatch
):
    files = [write(tmp_path / "a.jsonl", 100), write(tmp_path / "b.jsonl", 1900)]
    corpus = corpus_of_files(files, valid_fraction=0.0)

    def shares():
        return [
            {
                part.checked
                for task in plan_tasks(corpus)
                for part in task.parts
                if part.source == s
            }
            for s in corpus.sources
        ]

    assert shares() == [{1.0}, {1.0}]
    monkeypatch.setattr("megadga.prepare.pipeline.corpus.CHECKED_BYTES", 20)
    assert shares() == [{0.1}, {0.01}]


def test_no_files_are_no_tasks():
    assert plan_tasks(corpus_of_files([], valid_fraction=0.0)) == ()


def test_a_missing_input_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}/gone: expected a file or folder"):
        corpus_by_input([DomainInput("gone", tmp_path / "gone", None)], valid_fraction=0.1)
