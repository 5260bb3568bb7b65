import json
from pathlib import Path

import pytest

from megadga.data.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megadga.errors import ShardError

MANIFEST = Manifest(
    name="novels",
    tokenizer=TokenizerIdentity("sentencepiece", "ab" * 32, vocab_size=512, eod=2),
    splits={"train": (ShardEntry("train-00000", 2, 9, 400, "c" * 64, "d" * 64),), "valid": ()},
)
DELETED = object()


def change(folder: Path, keys: tuple[str | int, ...], value) -> None:
    content = json.loads(manifest_path(folder).read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is DELETED:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    manifest_path(folder).write_text(json.dumps(content))


def test_a_manifest_round_trips(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_shard_without_scores_is_written_as_before_there_were_any(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert "scores" not in manifest_path(tmp_path).read_text()


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ShardError) as caught:
        read_manifest(tmp_path)
    path = manifest_path(tmp_path)
    assert str(caught.value) == f"{path}: expected a domain's manifest, found {NOT_FOUND}"


NOT_FOUND = "No such file or directory"


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_not_json_is_refused(tmp_path, content):
    manifest_path(tmp_path).write_bytes(content)
    with pytest.raises(ShardError, match=r"manifest\.json: expected JSON, found "):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("version",), 2, "version: expected 1, found 2"),
        (("version",), DELETED, "version: expected 1, found None"),
        (("name",), 3, "name: expected str, found int 3"),
        (("names",), "x", "found missing: none missing, unknown: names"),
        (("tokenizer", "eod"), DELETED, "tokenizer: expected the keys .* missing: eod, unknown: "),
        (("tokenizer", "eod"), True, "tokenizer: eod: expected int, found bool true"),
        (("tokenizer", "eod"), 512, r"tokenizer\.eod: .* vocab_size = 512, found 512"),
        (("tokenizer",), [], r"tokenizer: expected dict, found list \[\]"),
        (("splits", "train"), {}, r"splits\.train: expected a list of shards, found dict {}"),
        (("splits", "train", 0), 1, r"splits\.train\[0\]: expected an object, found int 1"),
        (
            ("splits", "train", 0, "tokens"),
            1.5,
            r"splits\.train\[0\]: tokens: expected int, found float 1\.5",
        ),
        (
            ("splits", "train", 0, "file"),
            "../x",
            r"splits\.train\[0\]\.file: expected a name without folders, found '\.\./x'",
        ),
    ],
)
def test_a_malformed_manifest_is_refused_by_file_and_key(tmp_path, keys, value, message):
    write_manifest(tmp_path, MANIFEST)
    change(tmp_path, keys, value)
    with pytest.raises(ShardError, match=f"^{manifest_path(tmp_path)}: .*{message}") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_no_object_is_refused(tmp_path):
    manifest_path(tmp_path).write_text("[1]")
    with pytest.raises(ShardError, match=r"expected an object, found list \[1\]"):
        read_manifest(tmp_path)
