"""Whatever is in a folder's files: it is read as it was written, or refused in one line."""

import hashlib
import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megadga.data.folder import open_shards, open_split, read_folders
from megadga.data.indexed import HEADER, MAGIC
from megadga.errors import ShardError
from tests.support.damage import damaged
from tests.support.examples import examples
from tests.support.streams import grouped_folder

FILES = ["manifest.json", "domains.npz", "train-00000.idx", "train-00000.bin"]
DOMAINS = {"a": [9, 8, 7], "b": [10], "c": [5, 6, 4]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    splits = {"train": DOMAINS, "valid": {"a": [9], "b": [5], "c": [5]}}
    return grouped_folder(tmp_path_factory.mktemp("damage") / "d", splits, shard_tokens=20)


@pytest.fixture(scope="module")
def sound(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_everything(folder: Path) -> None:
    """Read all that there is to read, by every method that reads."""
    (grouped,) = read_folders(folder)
    for split in ("train", "valid"):
        for domain in open_split([grouped], split=split, sequence_length=4).domains:
            domain.windows(np.arange(domain.num_sequences))
            domain.tokens(0, domain.num_tokens)
        for shard in open_shards(grouped.source, grouped.manifest, split):
            assert shard.lengths.sum() == shard.num_tokens == shard.tokens.size
            assert shard.document_bounds.size == shard.num_documents + 1
            for index in range(shard.num_documents):
                assert shard.document(index).size >= 0


def refusal(folder: Path, files: dict[str, bytes]) -> ShardError | None:
    """Return what a folder with these files is refused with; None: it was read."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    tracemalloc.start()
    try:
        read_everything(folder)
    except ShardError as error:
        return error
    else:
        return None
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 1 << 22


def assert_one_line(error: ShardError | None) -> None:
    assert error is None or "\n" not in str(error)


@pytest.mark.parametrize("name", FILES)
@examples(2)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(folder, sound, name, data):
    content = data.draw(damaged(sound[name]))
    assert_one_line(refusal(folder, {**sound, name: content}))


@pytest.mark.parametrize("name", FILES)
@examples(1.5)
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(folder, sound, name, content):
    error = refusal(folder, {**sound, name: content})
    assert error is not None
    assert str(folder / name) in str(error)
    assert_one_line(error)


@examples(2)
@given(st.data())
def test_a_damaged_grouping_with_a_sound_checksum_is_read_or_refused(folder, sound, data):
    content = data.draw(damaged(sound["domains.npz"]))
    manifest = json.loads(sound["manifest.json"])
    manifest["grouping"]["sha256"] = hashlib.sha256(content).hexdigest()
    files = {"domains.npz": content, "manifest.json": json.dumps(manifest).encode()}
    assert_one_line(refusal(folder, {**sound, **files}))


numbers = st.sampled_from([0, 1, 2, 3, 2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**64 - 1])


@examples(2)
@given(st.sampled_from([1, 2, 3, 4, 5, 8]), numbers, numbers, st.binary(max_size=80))
@example(8, 2**61, 2**61, b"")
def test_any_header_is_read_or_refused(folder, sound, code, sentences, bounds, rest):
    content = HEADER.pack(MAGIC, 1, code, sentences, bounds) + rest
    assert_one_line(refusal(folder, {**sound, "train-00000.idx": content}))


@examples(1.5)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1))
@example(2**31 - 1, 2**63 - 2)
def test_any_last_sentence_is_read_or_refused(folder, sound, length, pointer):
    content = bytearray(sound["train-00000.idx"])
    sentences = 3
    struct.pack_into("<i", content, HEADER.size + 4 * (sentences - 1), length)
    struct.pack_into("<q", content, HEADER.size + 12 * sentences - 8, pointer)
    assert_one_line(refusal(folder, {**sound, "train-00000.idx": bytes(content)}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@examples(4)
@given(st.data())
def test_a_manifest_with_any_value_anywhere_is_read_or_refused(folder, sound, data):
    manifest = json.loads(sound["manifest.json"])
    place = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(json_values)
    assert_one_line(refusal(folder, {**sound, "manifest.json": json.dumps(manifest).encode()}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "expected JSON, found maximum recursion depth exceeded"),
        ('{"a":' * 100_000, "expected JSON, found maximum recursion depth exceeded"),
        ("1" * 5000, "expected JSON, found Exceeds the limit"),
        ('{"version": 1, "version": 1}', "expected JSON, found 'version' twice in one object"),
        ('{"version": NaN}', "version: expected 1, found nan"),
    ],
)
def test_json_with_duplicate_keys_or_deep_nesting_is_refused(folder, sound, text, message):
    error = refusal(folder, {**sound, "manifest.json": text.encode()})
    assert str(error).startswith(f"{folder / 'manifest.json'}: {message}")


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\0b", "a\nb"])
def test_an_invalid_file_name_is_refused(folder, sound, name):
    manifest = json.loads(sound["manifest.json"])
    manifest["splits"]["train"][0]["file"] = name
    error = refusal(folder, {**sound, "manifest.json": json.dumps(manifest).encode()})
    assert f"expected a name without folders, found {name!r}" in str(error)


def test_a_lone_surrogate_in_a_file_name_is_refused(folder, sound):
    manifest = json.loads(sound["manifest.json"])
    manifest["splits"]["train"][0]["file"] = "\ud800"
    error = refusal(folder, {**sound, "manifest.json": json.dumps(manifest).encode()})
    assert "manifest.json: expected JSON, found" in str(error)
    assert "surrogates not allowed" in str(error)
