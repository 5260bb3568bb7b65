import json
import struct
from pathlib import Path

import numpy as np
import pytest

from megadga.data.create import adopt_shards, count_token_bytes
from megadga.data.folder import DomainSource, open_domain
from megadga.data.indexed import HEADER, ShardWriter, best_dtype
from megadga.data.manifest import read_manifest
from megadga.errors import ShardError
from tests.support.raw_shards import overwrite, problems_of, write_raw_shard
from tests.support.streams import IDENTITY

EOD = IDENTITY.eod


def write_one(prefix: Path, *tokens: int) -> None:
    write_raw_shard(prefix, [tokens], [0, 1])


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    for number in (10, 2, 1):
        write_one(folder / f"part_{number}_text.document", number, EOD)
    write_one(folder / "valid_text_document", 7, 8)
    return folder


def shard_files(folder: Path, split: str) -> list[str]:
    return [entry.file for entry in read_manifest(folder).splits[split]]


def test_shards_are_taken_in_natural_order_and_split_by_name(folder):
    adopted = adopt_shards(folder, IDENTITY, valid="valid_*")
    assert adopted.manifest == read_manifest(folder)
    assert (adopted.manifest.name, adopted.manifest.tokenizer) == ("web", IDENTITY)
    assert shard_files(folder, "train") == [f"part_{n}_text.document" for n in (1, 2, 10)]
    assert shard_files(folder, "valid") == ["valid_text_document"]
    domain = open_domain(DomainSource("web", folder), split="train", sequence_length=5)
    assert domain.windows(np.array([0])).tolist() == [[1, EOD, 2, EOD, 10, EOD]]


def test_without_a_pattern_all_shards_are_for_training(folder):
    adopted = adopt_shards(folder, IDENTITY)
    assert list(adopted.manifest.splits) == ["train"]
    assert adopted.manifest.num_documents("train") == 4


def test_documents_that_do_not_end_in_eod_are_counted_over_all_splits(folder):
    write_raw_shard(folder / "more", [[EOD], [5], [], [6, 7]], [0, 1, 2, 3, 4])
    assert adopt_shards(folder, IDENTITY, valid="valid_*").without_eod == 3


def test_adopted_shards_are_unchanged_and_verify(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    adopt_shards(folder, IDENTITY)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() - before.keys() == {"manifest.json"}
    assert before.items() <= after.items()
    assert problems_of(folder) == []


def test_ids_that_lie_beside_a_shard_are_adopted_with_it(tmp_path):
    with ShardWriter(tmp_path / "a", best_dtype(100), ids=True) as writer:
        writer.add_document(np.array([5, EOD]), "page 1")
    (entry,) = adopt_shards(tmp_path, IDENTITY).manifest.splits["train"]
    assert entry == writer.entry


def test_progress_adds_up_to_the_tokens(folder):
    steps: list[int] = []
    adopt_shards(folder, IDENTITY, progress=steps.append)
    assert sum(steps) == count_token_bytes(folder) == 16


@pytest.mark.parametrize("valid", ["none_*", "*"])
def test_a_split_without_shards_is_refused(folder, valid):
    with pytest.raises(ShardError, match=r"web: expected at least one shard for .*, found only p"):
        adopt_shards(folder, IDENTITY, valid=valid)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(ShardError, match="expected at least one shard for train, found only fil"):
        adopt_shards(tmp_path, IDENTITY)
    with pytest.raises(ShardError, match="missing: expected a folder with shards, found none"):
        adopt_shards(tmp_path / "missing", IDENTITY)


@pytest.mark.parametrize("sentences", [[], [[]], [[], []]])
def test_a_split_without_tokens_is_refused(tmp_path, sentences):
    write_raw_shard(tmp_path / "a", sentences, range(len(sentences) + 1))
    with pytest.raises(ShardError, match=r"expected tokens for train, found none in a$"):
        adopt_shards(tmp_path, IDENTITY)
    write_one(tmp_path / "b", 5, EOD)
    with pytest.raises(ShardError, match=r"expected tokens for valid, found none in a$"):
        adopt_shards(tmp_path, IDENTITY, valid="a")
    assert adopt_shards(tmp_path, IDENTITY).manifest.num_tokens("train") == 2


def test_a_multimodal_index_is_refused_as_what_it_is(tmp_path):
    write_raw_shard(tmp_path / "a", [[5, EOD], [6, EOD]], [0, 1, 2])
    with (tmp_path / "a.idx").open("ab") as file:
        file.write(bytes((0, 1)))
    with pytest.raises(
        ShardError, match=r"a\.idx: expected an index of text, found a multimodal index"
    ):
        adopt_shards(tmp_path, IDENTITY)


def test_a_folder_that_has_a_manifest_is_refused(folder):
    (folder / "manifest.json").write_text(json.dumps("mine"))
    with pytest.raises(ShardError, match=r"manifest\.json: expected no manifest yet, found one"):
        adopt_shards(folder, IDENTITY)
    assert (folder / "manifest.json").read_text() == '"mine"'


def damage(folder: Path, kind: str) -> None:
    name = folder / "part_2_text.document"
    match kind:
        case "range":
            write_one(name, 5, 50_000, 50_001)
        case "gap":
            write_raw_shard(name, [[5], [6], [7]], [0, 1, 2, 3])
            overwrite(Path(f"{name}.idx"), HEADER.size + 12 + 8, struct.pack("<q", 4))
        case "header":
            overwrite(Path(f"{name}.idx"), 0, b"X")
        case "no bin":
            Path(f"{name}.bin").unlink()
        case "no idx":
            Path(f"{name}.idx").unlink()
        case _:
            raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("range", r"\.bin: token 1: expected an id in \[0, 50000\), found 50000 \(and 1 more\)$"),
        ("gap", r"\.idx: sentence 1: expected byte offset 2 and a length >= 0, found 4 and 1$"),
        ("header", r"\.idx: expected the magic .*, found b'XMIDIDX"),
        ("no bin", r"\.bin: expected a shard's tokens, found No such file"),
        ("no idx", r"\.idx: expected an index for .*part_2_text\.document\.bin, found none"),
    ],
)
def test_a_damaged_shard_is_refused_by_name_and_nothing_is_written(folder, kind, message):
    damage(folder, kind)
    with pytest.raises(ShardError, match=f"^{folder}/part_2_text.document{message}"):
        adopt_shards(folder, IDENTITY)
    assert not (folder / "manifest.json").exists()
