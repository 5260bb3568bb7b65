from dataclasses import replace

import numpy as np
import pytest

from megadga.data.append import append_shards
from megadga.data.content import compare_contents, contents_of, read_prefixes
from megadga.data.folder import DomainSource, open_domain, read_folders
from megadga.data.manifest import read_manifest, write_manifest
from megadga.errors import ShardError
from tests.support.shards import write_domain, write_grouped


def prefixes(where, names=None):
    folders = read_folders(where)
    known = [name for folder in folders for name in folder.domains.names]
    return read_prefixes(folders, known if names is None else names)


@pytest.fixture
def root(tmp_path):
    for index, name in enumerate("abc"):
        write_domain(tmp_path / "domains" / name, seed=index)
    write_domain(tmp_path / "more", seed=9, num_documents=7)
    return tmp_path


def windows(folder, length=8):
    domain = open_domain(DomainSource("d", folder), split="train", sequence_length=length)
    return domain.windows(np.arange(domain.num_sequences))


def test_domains_are_told_by_name_and_content(root):
    before = contents_of(prefixes(root / "domains"))
    assert compare_contents(before, prefixes(root / "domains")).is_none

    append_shards(root / "domains/a", root / "more")
    (root / "domains/b").rename(root / "gone")
    (root / "more").rename(root / "domains/b")  # another content under its name
    write_domain(root / "domains/0", seed=30)
    change = compare_contents(before, prefixes(root / "domains"))

    assert change.names == ("0", "a", "b", "c")
    assert change.statuses == ("entered", "grown", "replaced", "kept")
    np.testing.assert_array_equal(change.sources, [-1, 0, -1, 2])
    assert change.left == ("b",)
    assert not change.in_order


def test_a_folder_that_moved_or_lost_shards_is_what_its_shards_are(root):
    append_shards(root / "domains/a", root / "more")
    before = contents_of(prefixes(root / "domains"))
    (root / "domains").rename(root / "elsewhere")
    assert compare_contents(before, prefixes(root / "elsewhere")).is_none

    manifest = read_manifest(root / "elsewhere/a")
    splits = {split: entries[:1] for split, entries in manifest.splits.items()}
    write_manifest(root / "elsewhere/a", replace(manifest, splits=splits))
    assert compare_contents(before, prefixes(root / "elsewhere")).statuses[0] == "replaced"


def test_grouped_domains_are_ranges_of_their_shards(tmp_path):
    write_grouped(tmp_path / "grouped", ["p", "q", "r"])
    before = contents_of(prefixes(tmp_path / "grouped"))
    assert compare_contents(before, prefixes(tmp_path / "grouped")).is_none
    some = compare_contents(before, prefixes(tmp_path / "grouped", ["p", "r"]))
    assert (some.statuses, some.left) == (("kept", "kept"), ("q",))
    write_grouped(tmp_path / "other", ["p", "q", "r"], seed=1)
    assert set(compare_contents(before, prefixes(tmp_path / "other")).statuses) == {"replaced"}


def test_windows_of_a_domain_that_grew_are_those_before_and_new_ones(root):
    old, new = windows(root / "domains/a"), windows(root / "more")
    manifest = append_shards(root / "domains/a", root / "more")

    grown = windows(root / "domains/a")
    assert [entry.file for entry in manifest.splits["train"]] == ["train-00000", "train-00001"]
    np.testing.assert_array_equal(grown[: len(old)], old)
    assert len(grown) >= len(old) + len(new)
    more = read_manifest(root / "more").num_tokens("train")
    np.testing.assert_array_equal(grown.reshape(-1)[-more:][-8:], grown[-1][-8:])
    assert manifest.num_tokens("valid") > read_manifest(root / "more").num_tokens("valid")


def test_an_interrupted_append_is_completed_and_another_refused(root):
    (root / "domains/a/train-00001.bin").write_bytes(b"left behind")
    append_shards(root / "domains/a", root / "more")
    assert windows(root / "domains/a").size
    with pytest.raises(ShardError, match=r"found those of train-00001: they were appended"):
        append_shards(root / "domains/a", root / "more")


def test_shards_that_do_not_fit_are_not_appended(root):
    write_grouped(root / "grouped", ["p", "q"])
    write_domain(root / "chat", seed=3, chat=True)
    cases = {
        "grouped": r"grouping: expected the folder of one domain, found 2",
        "chat": r"expected trained spans as in .*, in all shards or in none",
        "domains/a": r"expected another folder than the domain's",
    }
    for source, message in cases.items():
        with pytest.raises(ShardError, match=message):
            append_shards(root / "domains/a", root / source)
    manifest = read_manifest(root / "more")
    other = replace(manifest.tokenizer, fingerprint="f" * 64)
    write_manifest(root / "more", replace(manifest, tokenizer=other))
    with pytest.raises(ShardError, match=r"tokenizer: expected that of .*domains/a"):
        append_shards(root / "domains/a", root / "more")
