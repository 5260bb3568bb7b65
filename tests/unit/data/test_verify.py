import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.indexed import HEADER, ShardWriter, best_dtype
from megadga.data.manifest import GroupingEntry, Manifest, read_manifest, write_manifest
from megadga.data.verify import find_folders, plan_checks, scan_shard, verify_shard
from tests.support.examples import examples
from tests.support.raw_shards import overwrite, problems_of, write_raw_shard
from tests.support.streams import IDENTITY, counting_domain

EOD = IDENTITY.eod


@pytest.fixture
def folder(tmp_path) -> Path:
    """Shards of one split with 2 and 1 documents, whose tokens count upwards from 0."""
    return counting_domain(tmp_path / "d", [6, 7, 8], shard_tokens=10)


@pytest.fixture
def named(tmp_path) -> Path:
    """A shard with ids."""
    folder = tmp_path / "named"
    folder.mkdir()
    with ShardWriter(folder / "train-00000", best_dtype(100), ids=True) as writer:
        for index in range(3):
            writer.add_document(np.array([5 + index, EOD]), f"page {index}")
    write_manifest(folder, Manifest("named", IDENTITY, {"train": (writer.entry,)}))
    return folder


def state(folder: Path, file: str, **changes: object) -> None:
    """Change what the manifest says of a shard."""
    manifest = read_manifest(folder)
    splits = {
        split: tuple(replace(e, **changes) if e.file == file else e for e in entries)
        for split, entries in manifest.splits.items()
    }
    write_manifest(folder, replace(manifest, splits=splits))


def sign(folder: Path, file: str) -> None:
    """Give a damaged shard the checksums of what it is now, so that they betray nothing."""
    sums = {
        f"{kind}_sha256": hashlib.sha256((folder / f"{file}.{kind}").read_bytes()).hexdigest()
        for kind in ("bin", "idx", "ids")
        if (folder / f"{file}.{kind}").exists()
    }
    state(folder, file, **sums)


def test_a_scan_reproduces_the_writers_entry(folder, named):
    for path, ids in ((folder, False), (named, True)):
        for entry in read_manifest(path).splits["train"]:
            assert scan_shard(path / entry.file, IDENTITY, ids=ids).entry == entry


def test_an_intact_domain_has_no_problems(folder, named):
    assert problems_of(folder) == problems_of(named) == []


def test_every_changed_byte_is_found(named):
    for path in (named / f"train-00000{suffix}" for suffix in (".bin", ".idx", ".ids")):
        content = path.read_bytes()
        for position in range(len(content)):
            overwrite(path, position, bytes([content[position] ^ 1]))
            found = problems_of(named)
            assert any(line.startswith(f"{path}: ") for line in found), (path, position)
            path.write_bytes(content)


def test_a_changed_token_is_found_by_its_checksum_alone(folder):
    overwrite(folder / "train-00001.bin", 0, b"\7")
    (line,) = problems_of(folder)
    stated = read_manifest(folder).splits["train"][1].bin_sha256
    found = hashlib.sha256((folder / "train-00001.bin").read_bytes()).hexdigest()
    assert line == (
        f"{folder / 'train-00001.bin'}: bin_sha256: expected {stated} by the manifest, "
        f"found {found}"
    )


def test_ids_out_of_range_are_found_where_they_are(folder):
    path = folder / "train-00000.bin"
    overwrite(path, 2 * 3, struct.pack("<H", 60_000))
    overwrite(path, 2 * 12, struct.pack("<H", 50_000))
    sign(folder, "train-00000")
    assert problems_of(folder) == [
        f"{path}: token 3: expected an id in [0, 50000), found 60000",
        f"{path}: token 12: expected an id in [0, 50000), found 50000",
        f"{path}: max_token: expected 12 by the manifest, found 60000",
    ]


def test_negative_ids_are_found(tmp_path):
    prefix = write_raw_shard(tmp_path / "a", [[1, -3], [-1]], [0, 1, 2], code=4)
    scan = scan_shard(prefix, IDENTITY, ids=False)
    assert scan.problems == (
        f"{prefix}.bin: token 1: expected an id in [0, 50000), found -3",
        f"{prefix}.bin: token 2: expected an id in [0, 50000), found -1",
    )


def test_damage_of_an_index_does_not_hide_that_of_its_tokens(folder):
    overwrite(folder / "train-00000.idx", HEADER.size + 8, struct.pack("<q", 4))
    overwrite(folder / "train-00000.bin", 2, struct.pack("<H", 60_000))
    sign(folder, "train-00000")
    assert [line.removeprefix(f"{folder}/train-00000") for line in problems_of(folder)] == [
        ".idx: sentence 0: expected byte offset 0 and a length >= 0, found 4 and 6",
        ".bin: token 1: expected an id in [0, 50000), found 60000",
        ".bin: max_token: expected 12 by the manifest, found 60000",
    ]


def test_a_shard_that_cannot_be_opened_does_not_hide_the_others(folder):
    (folder / "train-00000.idx").write_bytes(b"MMIDIDX")
    overwrite(folder / "train-00000.bin", 0, b"\7")
    (folder / "train-00001.bin").unlink()
    lines = problems_of(folder)
    assert [line.partition(": expected ")[0] for line in lines] == [
        f"{folder}/train-00000.idx",
        f"{folder}/train-00000.bin: bin_sha256",
        f"{folder}/train-00000.idx: idx_sha256",
        f"{folder}/train-00001.bin",
        f"{folder}/train-00001.bin",
    ]
    assert lines[0].endswith("expected a header of 34 bytes, found 7")
    assert lines[-1].endswith("expected a readable file, found No such file or directory")


@pytest.mark.parametrize(
    ("key", "value", "suffix", "found"),
    [
        ("documents", 3, ".idx", 2),
        ("tokens", 14, ".bin", 13),
        ("max_token", 11, ".bin", 12),
    ],
)
def test_a_count_that_differs_is_found(folder, key, value, suffix, found):
    state(folder, "train-00000", **{key: value})
    assert problems_of(folder) == [
        f"{folder}/train-00000{suffix}: {key}: expected {value} by the manifest, found {found}"
    ]


def test_bad_ids_are_found_line_by_line(named):
    path = named / "train-00000.ids"
    path.write_bytes(b'"page 0"\n7\n"page 2"\nx\n')
    sign(named, "train-00000")
    lines = problems_of(named)
    assert lines == [
        f"{path}: line 2: expected a JSON string, found int",
        f"{path}: line 4: expected a JSON string, found Expecting value: line 1 column 1 (char 0)",
        f"{path}: expected 3 ids, one per document, found 4",
    ]


def test_missing_ids_are_found(named):
    path = named / "train-00000.ids"
    path.unlink()
    assert f"{path}: expected documents' ids, found No such file or directory" in problems_of(
        named
    )


def test_files_not_in_the_manifest_are_found(folder, named):
    names = ("train-00002.bin", "train-00002.idx", "train-00000.ids", "valid-00000.bin.partial")
    for name in (*names, "notes.txt"):
        (folder / name).touch()
    assert problems_of(folder) == [
        f"{folder / name}: expected only files named in the manifest, found another"
        for name in sorted(names)
    ]


def test_a_shard_in_two_splits_is_found(folder):
    manifest = read_manifest(folder)
    (first, _) = manifest.splits["train"]
    write_manifest(folder, replace(manifest, splits={**manifest.splits, "valid": (first,)}))
    assert problems_of(folder) == [
        f"{folder}/manifest.json: splits: expected train-00000 once, found it 2 times"
    ]


def test_a_damaged_manifest_is_a_problem(folder):
    (folder / "manifest.json").write_text("{")
    (line,) = problems_of(folder)
    assert line.startswith(f"{folder}/manifest.json: expected JSON, found ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a grouping, found No such file or directory"),
        (b"other", "checksum: expected 0000 by the manifest, found "),
    ],
)
def test_a_damaged_grouping_is_found(folder, content, message):
    entry = GroupingEntry("domains.npz", 2, "0000")
    write_manifest(folder, replace(read_manifest(folder), grouping=entry))
    if content is not None:
        (folder / "domains.npz").write_bytes(content)
    (line,) = problems_of(folder)
    assert line.startswith(f"{folder}/domains.npz: {message}")


def test_documents_without_eod_are_a_warning(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    # Of several sentences, without any tokens, and one that ends where two chunks may meet.
    sentences = [[1], [2, EOD], [EOD, 3], [], [4, EOD], [5]]
    prefix = write_raw_shard(folder / "a", sentences, [0, 2, 3, 4, 5, 6])
    scan = scan_shard(prefix, IDENTITY, ids=False)
    assert (scan.problems, scan.without_eod) == ((), 2)
    assert scan.entry is not None
    write_manifest(folder, Manifest("d", IDENTITY, {"train": (scan.entry,)}))
    (check,) = plan_checks(folder).shards
    report = verify_shard(check)
    assert report.problems == ()
    assert report.warnings == (
        f"warning: {prefix}.bin: expected documents that end in EOD (2), found 2 of 5 that do not",
    )
    assert report.num_bytes == sum(path.stat().st_size for path in check.files.values())


@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
def test_results_do_not_depend_on_the_chunk_size(folder, monkeypatch, chunk):
    overwrite(folder / "train-00000.bin", 2 * 3, struct.pack("<H", 60_000))
    whole = problems_of(folder), scan_shard(folder / "train-00000", IDENTITY, ids=False)
    monkeypatch.setattr("megadga.data.documents.CHUNK_ENTRIES", chunk)
    monkeypatch.setattr("megadga.data.documents.CHUNK_TOKENS", chunk)
    monkeypatch.setattr("megadga.data.verify.CHUNK_TOKENS", chunk)
    assert (problems_of(folder), scan_shard(folder / "train-00000", IDENTITY, ids=False)) == whole


def test_progress_adds_up_to_the_tokens(folder):
    steps: list[int] = []
    scan_shard(folder / "train-00000", IDENTITY, ids=False, progress=steps.append)
    assert sum(steps) == (folder / "train-00000.bin").stat().st_size


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return counting_domain(tmp_path_factory.mktemp("kept") / "d", [6, 7, 8])


@examples(3)
@given(st.sampled_from([".bin", ".idx"]), st.binary(max_size=200), st.integers(0, 200), st.data())
def test_arbitrary_file_contents_are_reported_as_problems(kept, suffix, content, start, data):
    path = kept / f"train-00000{suffix}"
    intact = path.read_bytes()
    stop = data.draw(st.integers(start, start + 60))
    path.write_bytes(intact[:start] + content + intact[stop:])
    changed = path.read_bytes() != intact
    try:
        assert bool(problems_of(kept)) is changed
    finally:
        path.write_bytes(intact)


def test_a_folder_of_domains_yields_each_domain(folder, named):
    (folder.parent / ".hidden").mkdir()
    (folder.parent / "no-manifest").mkdir()
    found = find_folders(folder.parent)
    assert found == (folder, named, folder.parent / "no-manifest")
    assert find_folders(folder) == (folder,)
    (line,) = plan_checks(found[2]).problems
    assert line.startswith(
        f"{found[2]}/manifest.json: expected a domain's manifest, found No such"
    )


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_a_domain_reports_a_missing_manifest(tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert find_folders(tmp_path / name) == (tmp_path / name,)
