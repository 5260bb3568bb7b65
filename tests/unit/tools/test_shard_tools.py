"""The tools that look after shards, run as their users run them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from megadga.data.create import create_domain
from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.manifest import Manifest, read_manifest, write_manifest
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.training import train_tokenizer
from tests.support.huggingface import train_byte_level
from tests.support.raw_shards import overwrite, write_raw_shard
from tests.support.texts import made_up_texts
from tests.support.tools import assert_refused, run_data

NAMES = ("inspect", "verify", "merge", "adopt")


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """The documents of some texts."""
    return [np.append(tokens, tokenizer.identity.eod) for tokens in tokenizer.encode(texts)]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with a tokenizer and the shards of two domains."""
    work = tmp_path_factory.mktemp("work")
    tokenizer = train_tokenizer(made_up_texts(80), vocab_size=400, prefix=work / "small")
    novels, qa = (
        {split: encode(tokenizer, texts) for split, texts in splits.items()}
        for splits in (
            {"train": made_up_texts(60), "valid": made_up_texts(20, seed=1)},
            {"train": ["A question? An answer."], "valid": ["Another question?"]},
        )
    )
    create_domain(work / "shards" / "novels", tokenizer.identity, novels)
    create_domain(work / "shards" / "qa", tokenizer.identity, qa)
    return work


@pytest.mark.parametrize(
    ("options", "name", "text"),
    [
        ((), "train", "A question? An answer."),
        (("--split", "valid"), "valid", "Another question?"),
    ],
)
def test_inspect_decodes_a_document_of_one_domain(work, options, name, text):
    done = run_data(
        "inspect", work / "shards" / "qa", "--decode", 0,
        "--tokenizer", work / "small.model", *options,
    )  # fmt: skip
    header, *rest = done.stdout.splitlines()
    assert header.startswith(f"==> qa: {name} document 0, ")
    assert rest == [text]


def test_inspect_prints_where_a_document_came_from(work, tmp_path):
    model = work / "small.model"
    tokenizer = load_tokenizer(model)
    with ShardWriter(tmp_path / "train-00000", best_dtype(400), ids=True) as writer:
        writer.add_document(np.array([tokenizer.identity.eod]), 'page "1"')
    splits = {"train": (writer.entry,)}
    write_manifest(tmp_path, Manifest("named", tokenizer.identity, splits))
    done = run_data("inspect", tmp_path, "--decode", 0, "--tokenizer", model)
    header = f'==> {tmp_path.name}: train document 0, "page \\"1\\"", 1 tokens'
    assert done.stdout == f"{header}\n\n"


def test_inspect_refuses_another_tokenizer(work, tmp_path):
    other = train_byte_level(tmp_path / "tokenizer.json")
    done = run_data("inspect", work / "shards" / "qa", "--decode", 0, "--tokenizer", other)
    assert_refused(done, f"{work / 'shards' / 'qa' / 'manifest.json'}: tokenizer: expected ")


def test_inspect_refuses_a_document_that_does_not_exist(work):
    done = run_data(
        "inspect", work / "shards" / "qa", "--decode", 1,
        "--tokenizer", work / "small.model",
    )  # fmt: skip
    assert_refused(done, "qa: split train: expected a document in [0, 1), found 1")


def test_inspect_refuses_a_damaged_shard(work, tmp_path):
    copy = shutil.copytree(work / "shards" / "qa", tmp_path / "qa")
    (copy / "train-00000.bin").write_bytes(b"\0")
    assert_refused(run_data("inspect", copy), "train-00000.bin: expected ")


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_passes_what_is_whole(work, workers):
    done = run_data("verify", work / "shards", "--workers", workers)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("folders: 2, shards: 4, documents: 82, tokens: ")
    assert done.stdout.endswith(", problems: 0\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_names_everything_that_is_wrong(work, tmp_path, workers):
    copies = [shutil.copytree(work / "shards", tmp_path / name) for name in ("one", "two")]
    (copies[0] / "novels" / "train-00000.bin").write_bytes(b"\0")
    (copies[0] / "qa" / "train-00001.bin").touch()
    overwrite(copies[1] / "qa" / "valid-00000.bin", 0, b"\xff\xff")
    done = run_data("verify", *copies, "--workers", workers)
    assert (done.returncode, done.stderr) == (1, "")
    *lines, summary = done.stdout.splitlines()
    places = [line.partition(": expected ")[0].removeprefix(f"{tmp_path}/") for line in lines]
    assert places == [
        "one/qa/train-00001.bin",
        "one/novels/train-00000.bin",
        "one/novels/train-00000.bin: bin_sha256",
        "two/qa/valid-00000.bin: token 0",
        "two/qa/valid-00000.bin: max_token",
        "two/qa/valid-00000.bin: bin_sha256",
    ]
    assert summary.endswith(", problems: 6")


def test_verify_misses_what_is_not_there(tmp_path):
    done = run_data("verify", tmp_path / "missing", "--workers", 1)
    assert done.returncode == 1
    first, summary = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'missing' / 'manifest.json'}: expected a domain's manif")
    assert summary == "folders: 1, shards: 0, documents: 0, tokens: 0, problems: 1"


def test_verify_refuses_to_work_with_nobody(work):
    done = run_data("verify", work / "shards", "--workers", 0)
    assert_refused(done, "workers: expected at least 1, found 0")


def test_adopted_shards_verify_with_a_warning_of_documents_without_eod(work, tmp_path):
    write_raw_shard(tmp_path / "web", [[5, 6], [7, 2]], [0, 1, 2])
    adopted = run_data("adopt", tmp_path, "--tokenizer", work / "small.model")
    assert (adopted.returncode, adopted.stderr) == (0, "")
    _, line, count = adopted.stdout.splitlines()
    assert line.split()[:4] == [tmp_path.name, "train", "2", "4"]
    assert count == "documents that do not end in EOD: 1"
    done = run_data("verify", tmp_path, "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    warning, summary = done.stdout.splitlines()
    assert warning.startswith(f"warning: {tmp_path / 'web.bin'}: expected documents that end in ")
    assert summary == "folders: 1, shards: 1, documents: 2, tokens: 4, problems: 0"


def test_adopt_takes_a_hugging_face_tokenizer_and_its_end_of_documents(tmp_path):
    path = train_byte_level(tmp_path / "tokenizer.json", special=["<|endoftext|>", "<|im_end|>"])
    (tmp_path / "web").mkdir()
    write_raw_shard(tmp_path / "web" / "part_1", [[5, 1]], [0, 1])
    write_raw_shard(tmp_path / "web" / "held_out", [[6, 1]], [0, 1])
    arguments = (tmp_path / "web", "--tokenizer", tmp_path, "--valid", "held_*")
    assert_refused(run_data("adopt", *arguments), f"{path}: eod: expected exactly one of ")
    done = run_data("adopt", *arguments, "--eod", "<|im_end|>")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["split", "train", "valid"]
    assert read_manifest(tmp_path / "web").tokenizer.eod == 1


def test_adopt_refuses_a_folder_that_has_a_manifest(work):
    folder = work / "shards" / "qa"
    done = run_data("adopt", folder, "--tokenizer", work / "small.model")
    assert_refused(done, f"{folder / 'manifest.json'}: expected no manifest yet, found one")


def test_merge_prints_what_it_has_written(work, tmp_path):
    shards = work / "shards"
    done = run_data(
        "merge", shards / "novels", shards / "qa", "--output", tmp_path / "all",
        "--shard-tokens", 500,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    _, *lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines] == [["all", "train", "61"], ["all", "valid", "21"]]
    assert (tmp_path / "all" / "train-00001.idx").exists()


def test_merge_refuses_an_output_that_exists(work):
    folder = work / "shards" / "qa"
    done = run_data("merge", folder, "--output", folder)
    assert_refused(done, f"{folder}: expected no folder of this name yet, found one")


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_with_an_example(name):
    done = run_data(name, "--help")
    assert done.returncode == 0
    assert f"megadga data {name} " in done.stdout
