import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megadga.data.create import adopt_shards
from megadga.data.documents import read_documents
from megadga.data.folder import DomainSource, open_shards
from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.manifest import GroupingEntry, Manifest, read_manifest, write_manifest
from megadga.data.merge import merge_domains, read_merge_sources
from megadga.errors import ConfigError, ShardError
from tests.support.raw_shards import overwrite, problems_of, write_raw_shard
from tests.support.streams import IDENTITY

EOD = IDENTITY.eod


def write_folder(folder: Path, first: int, *, ids: bool = False, vocab_size: int = 50_000) -> Path:
    """A domain of two training shards of two documents each, and one document to validate on."""
    folder.mkdir(parents=True)
    identity = replace(IDENTITY, vocab_size=vocab_size)
    splits = {}
    for split, shards in (("train", ((3, 4), (5, 6))), ("valid", ((7,),))):
        entries = []
        for number, lengths in enumerate(shards):
            prefix = folder / f"{split}-{number:05d}"
            with ShardWriter(prefix, best_dtype(vocab_size), ids=ids) as writer:
                for length in lengths:
                    tokens = np.append(np.full(length - 1, first + length), EOD)
                    writer.add_document(tokens, f"{folder.name} {length}" if ids else None)
            entries.append(writer.entry)
        splits[split] = tuple(entries)
    write_manifest(folder, Manifest(folder.name, identity, splits))
    return folder


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    return [write_folder(tmp_path / name, start) for name, start in (("b", 100), ("a", 200))]


def merge(folders: list[Path], output: Path, **options) -> Manifest:
    return merge_domains(read_merge_sources(folders), output, **options)


def read_split(folder: Path, split: str, *, ids: bool = False) -> list:
    """Every document of a split: its tokens, or its id."""
    found = []
    for shard in open_shards(DomainSource(folder.name, folder), read_manifest(folder), split):
        for batch in read_documents(shard, ids=ids):
            parts = [batch.part(i, i + 1) for i in range(batch.lengths.size)]
            found += [part.ids[0] if ids else part.tokens.tolist() for part in parts]
    return found


@pytest.mark.parametrize("shard_tokens", [1, 3, 4, 9, 1 << 28])
@pytest.mark.parametrize("chunk", [1, 5, 1 << 22])
def test_documents_of_all_domains_follow_one_another(
    folders, tmp_path, monkeypatch, chunk, shard_tokens
):
    monkeypatch.setattr("megadga.data.documents.CHUNK_TOKENS", chunk)
    output = tmp_path / "new" / "merged"
    manifest = merge(folders, output, shard_tokens=shard_tokens)
    for split in ("train", "valid"):
        expected = read_split(folders[0], split) + read_split(folders[1], split)
        assert read_split(output, split) == expected
        for entry in manifest.splits[split][:-1]:
            assert entry.tokens >= shard_tokens
    assert manifest == read_manifest(output)
    assert (manifest.name, manifest.tokenizer) == ("merged", IDENTITY)
    assert problems_of(output) == []


def test_a_shard_is_closed_by_the_document_that_fills_it(folders, tmp_path):
    manifest = merge(folders, tmp_path / "merged", shard_tokens=7)
    sizes = [(entry.file, entry.documents, entry.tokens) for entry in manifest.splits["train"]]
    assert sizes == [
        ("train-00000", 2, 7),
        ("train-00001", 2, 11),
        ("train-00002", 2, 7),
        ("train-00003", 2, 11),
    ]


def test_a_single_domain_is_split_into_new_shards(folders, tmp_path):
    manifest = merge(folders[:1], tmp_path / "merged")
    (entry,) = manifest.splits["train"]
    assert (entry.documents, entry.tokens) == (4, 18)


def test_documents_keep_their_ids(tmp_path):
    folders = [write_folder(tmp_path / name, 0, ids=True) for name in ("b", "a")]
    merge(folders, tmp_path / "merged")
    found = read_split(tmp_path / "merged", "train", ids=True)
    assert found == [f"{name} {length}" for name in ("b", "a") for length in (3, 4, 5, 6)]
    assert problems_of(tmp_path / "merged") == []


def test_partially_missing_ids_are_refused_unless_dropped(tmp_path):
    folders = [write_folder(tmp_path / name, 0, ids=name == "b") for name in ("a", "b")]
    message = (
        f"{folders[0]}/train-00000: expected ids of its documents, as {folders[1]}/train-00000 "
        "has them, found none"
    )
    with pytest.raises(ShardError, match=message):
        merge(folders, tmp_path / "merged")
    manifest = merge(folders, tmp_path / "merged", drop_ids=True)
    assert [entry.ids_sha256 for entry in manifest.splits["train"]] == [None]


def test_an_empty_shard_does_not_determine_ids(tmp_path):
    named = write_folder(tmp_path / "a", 0, ids=True)
    empty = tmp_path / "b"
    empty.mkdir()
    with ShardWriter(empty / "train-00000", best_dtype(IDENTITY.vocab_size)) as writer:
        pass
    write_manifest(empty, Manifest("b", IDENTITY, {"train": (writer.entry,)}))
    manifest = merge([empty, named], tmp_path / "merged")
    assert manifest.num_documents("train") == 4
    assert read_split(tmp_path / "merged", "train", ids=True)[0] == "a 3"


def test_shards_of_other_programs_are_merged(tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    write_raw_shard(folder / "web.v1", [[1], [2, EOD], [3]], [0, 2, 3], code=5)
    adopt_shards(folder, IDENTITY)
    merge([folder], tmp_path / "merged")
    assert read_split(tmp_path / "merged", "train") == [[1, 2, EOD], [3]]
    assert np.fromfile(tmp_path / "merged" / "train-00000.bin", "<u2").tolist() == [1, 2, EOD, 3]


def test_progress_adds_up_to_the_tokens(folders, tmp_path):
    steps: list[int] = []
    sources = read_merge_sources(folders)
    merge_domains(sources, tmp_path / "merged", progress=steps.append)
    assert sum(steps) == sum(source.num_tokens for source in sources) == 50


def test_domains_of_different_tokenizers_are_refused(folders, tmp_path):
    other = write_folder(tmp_path / "other", 0, vocab_size=70_000)
    with pytest.raises(ShardError, match=rf"{other}/manifest\.json: tokenizer: expected that of"):
        read_merge_sources([*folders, other])


def test_a_domain_that_comes_twice_is_refused(folders, tmp_path):
    again = tmp_path / "a" / ".." / "b"
    with pytest.raises(ShardError, match=f"{again}: expected each folder once, found it twice"):
        read_merge_sources([*folders, again])


def test_a_folder_of_many_domains_is_refused(folders):
    entry = GroupingEntry("domains.npz", 9, "0000")
    write_manifest(folders[1], replace(read_manifest(folders[1]), grouping=entry))
    with pytest.raises(ShardError, match=r"grouping: expected one domain, found 9 in shared sh"):
        read_merge_sources(folders)


def test_an_output_that_exists_is_refused(folders, tmp_path):
    (tmp_path / "merged").mkdir()
    with pytest.raises(ShardError, match="merged: expected no folder of this name yet, found one"):
        merge(folders, tmp_path / "merged")


def test_a_shard_size_below_one_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="shard_tokens: expected at least 1, found 0"):
        merge(folders, tmp_path / "merged", shard_tokens=0)


def test_empty_documents_are_refused(tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    write_raw_shard(folder / "web", [[1], [2]], [0, 1, 1, 2])
    adopt_shards(folder, IDENTITY)
    with pytest.raises(ShardError, match=r"web\.idx: document 1: expected at least one token"):
        merge([folder], tmp_path / "merged")


def test_tokens_that_are_in_no_document_are_refused(tmp_path):
    folder = write_folder(tmp_path / "a", 0)
    prefix = write_raw_shard(folder / "train-00001", [[1], [2]], [0])
    entry = replace(
        read_manifest(folder).splits["train"][1],
        documents=0,
        tokens=2,
        idx_sha256=hashlib.sha256(Path(f"{prefix}.idx").read_bytes()).hexdigest(),
    )
    write_manifest(folder, replace(read_manifest(folder), splits={"train": (entry,)}))
    with pytest.raises(
        ShardError, match=r"train-00001\.idx: document bound 0: expected .*, found 0"
    ):
        merge([folder], tmp_path / "merged")


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".ids"])
def test_every_changed_byte_is_refused_and_leaves_nothing(tmp_path, suffix):
    folder = write_folder(tmp_path / "a", 0, ids=True)
    path = folder / f"train-00001{suffix}"
    content = path.read_bytes()
    for position in range(len(content)):
        overwrite(path, position, bytes([content[position] ^ 1]))
        with pytest.raises(ShardError, match=r"^\S*train-00001\.(bin|idx|ids): .*expected "):
            merge([folder], tmp_path / "merged")
        path.write_bytes(content)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
