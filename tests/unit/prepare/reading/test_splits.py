from pathlib import Path

import pytest

from megadga.errors import ConfigError
from megadga.prepare.reading.splits import divide_files, split_in_names

FOLDER = Path("/data/qa")


def divide(*names: str, **options) -> tuple[list[str], ...]:
    divided = divide_files(FOLDER, [FOLDER / name for name in names], **options)
    return tuple(
        [str(file.relative_to(FOLDER)) for file in files]
        for files in (divided.train, divided.valid, divided.skipped)
    )


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("validation-00000-of-00001.parquet", "valid"),
        ("c4-validation.00000-of-00008.json.gz", "valid"),
        ("squad-dev-v1.1", "valid"),
        ("VAL_1.JSONL", "valid"),
        ("test.jsonl", "test"),
        ("qa_eval.jsonl", "test"),
        ("latest.jsonl", None),
        ("trainspotting.jsonl", None),
        ("valley.jsonl", None),
    ],
)
def test_a_word_says_a_split_wherever_it_stands(name, split):
    assert split_in_names([name], anywhere=True) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("wiki.test.tokens", "test"),
        ("test-00000-of-00001.txt", "test"),
        ("valid_2.txt", "valid"),
        ("test_parser.py", None),
        ("device.c", None),
    ],
)
def test_in_names_of_code_and_prose_a_word_stands_alone(name, split):
    assert split_in_names([name], anywhere=False) == split


def test_what_must_be_kept_out_of_training_decides():
    assert split_in_names(["train", "test-0.jsonl"], anywhere=True) == "test"


@pytest.mark.parametrize(
    "names",
    [
        ("med.train.jsonl", "med.valid.jsonl", "med.test.jsonl"),
        ("data/train-0.parquet", "data/validation-0.parquet", "data/test-0.parquet"),
        ("train/0.jsonl.zst", "dev/0.jsonl.zst", "eval/0.jsonl.zst"),
        ("training.json", "val.json", "evaluation.json"),
        ("train_00", "valid_00", "test_00"),
        ("wiki.train.txt", "wiki.valid.txt", "wiki.test.txt"),
        ("0.jsonl", "validation-0.jsonl", "test-0.jsonl"),
    ],
)
def test_files_of_a_folder_go_where_their_names_say(names):
    train, valid, test = names
    assert divide(*names) == ([train], [valid], [test])


def test_what_lies_beside_records_that_say_a_split_is_excluded():
    names = ("LICENSE", "README.md", "dataset_infos.json", "load.py")
    assert divide(*names, "train-0.parquet") == (["train-0.parquet"], [], list(names))
    assert divide("README.md", "train.json") == (["train.json"], [], ["README.md"])


def test_names_of_code_do_not_make_a_validation_split():
    names = ("dev.py", "test_a.py", "train.py", "src/validation/a.js", "src/test/A.java")
    assert divide(*names) == (["test_a.py", "train.py"], [], ["dev.py", *names[3:]])


def test_a_folder_without_splits_is_trained_on():
    assert divide("README.md", "a.jsonl", "b/c.parquet", "contest.txt") == (
        ["README.md", "a.jsonl", "b/c.parquet", "contest.txt"],
        [],
        [],
    )
    assert divide() == ([], [], [])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train.jsonl", "more.jsonl"),
            r"more\.jsonl: expected a name with train, .* like others in /data/qa, found none",
        ),
        (
            ("train/valid-0.jsonl",),
            r"valid-0\.jsonl: expected at most one split in .* /data/qa, found train and valid",
        ),
        (
            ("valid.jsonl", "test.jsonl"),
            r"/data/qa: expected files to train on, found none among 2: .* as .*/valid\.jsonl",
        ),
    ],
)
def test_names_that_contradict_are_refused(names, message):
    with pytest.raises(ConfigError, match=f"{message}$"):
        divide(*names)


def test_where_records_decide_names_may_say_nothing_beside_others():
    assert divide("more.jsonl", "train.jsonl", mixed=True)[0] == ["more.jsonl", "train.jsonl"]
