"""Which windows shards and documents become."""

import numpy as np
import pytest

from megadga.data.create import create_domain
from megadga.data.targets import PADDING
from megadga.errors import ConfigError, ShardError
from megadga.prepare.progress import no_progress
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.use.sets import (
    SetOptions,
    is_shards,
    open_document_set,
    open_shard_sets,
    parse_sets,
)
from megadga.use.text import ModelTokenizer
from tests.support.huggingface import bytes_alone
from tests.support.shards import TOKENIZER, write_domain, write_grouped
from tests.support.texts import write_lines

OURS = frozenset((TOKENIZER.fingerprint,))
TEXTS = ["abcd", "é", "xyz"]


@pytest.fixture
def tokenizer(tmp_path) -> ModelTokenizer:
    ours = load_tokenizer(bytes_alone(tmp_path / "tokenizer.json", eod=300))
    return ModelTokenizer(ours, end=300, start=None)


def windows_of(one, batch_size=2):
    return list(one.windows(batch_size, no_progress))


@pytest.mark.parametrize("name", ["text.jsonl", "text.jsonl.gz", "text.jsonl.zst"])
def test_every_token_of_documents_is_a_target_once(tmp_path, tokenizer, name):
    file = write_lines(tmp_path / name, TEXTS)
    stream = [300, *(token for text in TEXTS for token in (*tokenizer.encode(text), 300))]

    opened = open_document_set("docs", file, SetOptions(5), tokenizer=tokenizer)
    windows = windows_of(opened)

    rows = np.concatenate([each.tokens for each in windows])
    assert rows.shape == (3, 6)
    assert rows[:, 1:].ravel().tolist() == [*stream[1:], *[PADDING] * (15 - len(stream[1:]))]
    assert rows[:, 0].tolist() == stream[::5][:3]
    assert opened.knows_bytes
    assert sum(each.text_bytes for each in windows) == 9


def test_a_limit_takes_the_first_windows(tmp_path, tokenizer):
    file = tmp_path / "a.txt"
    file.write_text("a b c d e f g h")
    limited = open_document_set("docs", file, SetOptions(3, limit=3), tokenizer=tokenizer)
    whole = open_document_set("docs", file, SetOptions(3), tokenizer=tokenizer)

    first = np.concatenate([each.tokens for each in windows_of(limited)])

    assert not limited.knows_bytes
    assert np.array_equal(first, windows_of(whole, batch_size=3)[0].tokens)


def test_shards_are_their_splits_windows(tmp_path):
    write_domain(tmp_path / "one", seed=1)

    sets, notes = open_shard_sets("set", tmp_path / "one", SetOptions(8), fingerprints=OURS)
    (valid,), _ = open_shard_sets(
        "set", tmp_path / "one", SetOptions(8, "valid", limit=3), fingerprints=OURS
    )

    assert [(one.name, one.split) for one in sets] == [("set", "train"), ("set", "valid")]
    assert notes == []
    rows = np.concatenate([each.tokens for each in windows_of(valid)])
    assert rows.shape == (3, 9)
    assert (rows[1:, 0] == rows[:-1, -1]).all()


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_of_domains_is_a_set_of_each(tmp_path, shared):
    if shared:
        write_grouped(tmp_path / "many", ["d0", "d1"])
    else:
        for seed in range(2):
            write_domain(tmp_path / "many" / f"d{seed}", seed=seed)

    assert is_shards(tmp_path / "many")
    sets, _ = open_shard_sets("set", tmp_path / "many", SetOptions(4, "valid"), fingerprints=OURS)

    assert [one.name for one in sets] == ["set/d0", "set/d1"]


def test_what_is_shorter_than_a_window_is_left_out_and_named(tmp_path):
    documents = {"train": [np.arange(9)], "valid": [np.arange(3)]}
    create_domain(tmp_path / "one", TOKENIZER, documents)

    (train,), notes = open_shard_sets("set", tmp_path / "one", SetOptions(4), fingerprints=OURS)

    assert train.split == "train"
    (note,) = notes
    assert note == (
        "--set set: left out: split valid: expected at least 5 tokens (a window of "
        "--sequence-length and one), found 3 in set"
    )
    with pytest.raises(ShardError, match=r"split train: expected at least 13 tokens"):
        open_shard_sets("set", tmp_path / "one", SetOptions(12), fingerprints=OURS)


def test_shards_of_another_tokenizer_or_without_the_split_are_refused(tmp_path):
    create_domain(tmp_path / "one", TOKENIZER, {"train": [np.arange(9)]})

    with pytest.raises(ShardError, match=r"expected that of the model \(SHA-256 ffffff"):
        open_shard_sets(
            "set", tmp_path / "one", SetOptions(4), fingerprints=frozenset(("f" * 64,))
        )
    with pytest.raises(ShardError, match=r"splits: expected valid, found only train"):
        open_shard_sets("set", tmp_path / "one", SetOptions(4, "valid"), fingerprints=OURS)


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        (["a"], "--set: expected NAME=SHARDS or NAME=DOCUMENTS, found 'a'"),
        (["a=."] * 2, "--set a: expected different names, found it twice"),
        (["a=none/at/all"], "--set a: expected shards or documents, found no none/at/all"),
    ],
)
def test_sets_are_names_and_paths(named, complaint):
    with pytest.raises(ConfigError) as error:
        parse_sets(named)
    assert str(error.value) == complaint


def test_documents_without_text_are_refused(tmp_path, tokenizer):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected shards or documents, found none in"):
        open_document_set("a", tmp_path / "empty", SetOptions(4), tokenizer=tokenizer)
    file = write_lines(tmp_path / "blank.jsonl", [" "])
    with pytest.raises(ConfigError, match=r"--set a: expected documents with text, found none"):
        windows_of(open_document_set("a", file, SetOptions(4), tokenizer=tokenizer))
