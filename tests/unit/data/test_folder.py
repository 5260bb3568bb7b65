import json
from dataclasses import replace

import numpy as np
import pytest

from megadga.data.create import create_domain
from megadga.data.folder import (
    DomainSource,
    find_domains,
    open_domain,
    open_domains,
    open_split,
    read_folders,
)
from megadga.data.manifest import Bounds, Grouping, manifest_path, write_grouping, write_manifest
from megadga.data.reader import read_windows
from megadga.data.sampler import Selection
from megadga.errors import ShardError
from tests.support.opens import watched_opens
from tests.support.streams import (
    IDENTITY,
    counting_documents,
    counting_domain,
    grouped_folder,
)


@pytest.fixture
def folder(tmp_path):
    for name in ("novels", "code"):
        counting_domain(tmp_path / "shards" / name, [20, 30])
    return tmp_path / "shards"


def edit_entry(folder, **changes):
    path = manifest_path(folder)
    content = json.loads(path.read_text())
    content["splits"]["train"][0].update(changes)
    path.write_text(json.dumps(content))


def test_domains_are_the_folders_sorted_by_name(folder):
    (folder / ".novels.partial").mkdir()
    (folder / "README").write_text("not a domain")
    assert find_domains(folder) == (
        DomainSource("code", folder / "code"),
        DomainSource("novels", folder / "novels"),
    )


def test_listed_domains_keep_their_order_and_names(folder):
    sources = (DomainSource("n", folder / "novels"), DomainSource("c", folder / "code"))
    domains = open_domains(sources, split="train", sequence_length=8)
    assert [domain.name for domain in domains] == ["n", "c"]
    assert [domain.folder.name for domain in domains] == ["novels", "code"]


def test_a_folder_without_manifest_is_refused(folder):
    manifest_path(folder / "code").unlink()
    with pytest.raises(ShardError, match=f"{manifest_path(folder / 'code')}: expected a domain's"):
        open_domains(folder, split="train", sequence_length=8)


def test_a_folder_without_domains_is_refused(tmp_path):
    with pytest.raises(ShardError, match=f"{tmp_path}: expected one folder per domain, found no"):
        find_domains(tmp_path)


def test_no_folder_at_all_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"no-such: expected a folder .*, found none"):
        find_domains(tmp_path / "no-such")


def test_a_single_domains_folder_is_refused_as_a_folder_of_domains(folder):
    with pytest.raises(ShardError, match=r"novels: expected .*, found a domain's own folder"):
        find_domains(folder / "novels")


def test_two_domains_of_one_name_are_refused(folder):
    sources = [DomainSource("x", folder / "code"), DomainSource("x", folder / "novels")]
    with pytest.raises(
        ShardError, match="expected domains with different names, found 2 called x"
    ):
        open_domains(sources, split="train", sequence_length=8)


def test_domains_of_different_tokenizers_are_refused_by_both_folders(folder):
    counting_domain(folder / "other", [30], identity=replace(IDENTITY, fingerprint="0" * 64))
    with pytest.raises(ShardError) as caught:
        open_domains(folder, split="train", sequence_length=8)
    assert str(folder / "other") in str(caught.value)
    assert str(folder / "code") in str(caught.value)


def test_a_set_shorter_than_one_window_is_refused(folder):
    source = DomainSource("code", folder / "code")
    assert open_domain(source, split="train", sequence_length=49).num_sequences == 1
    with pytest.raises(ShardError) as caught:
        open_domain(source, split="train", sequence_length=50)
    assert str(caught.value) == (
        f"{folder / 'code'}: split train: expected at least 51 tokens "
        "(one window of sequence_length + 1), found 50 in code"
    )


def test_an_empty_domain_is_refused(tmp_path):
    create_domain(tmp_path / "d", IDENTITY, {"train": []})
    with pytest.raises(
        ShardError, match=r"split train: expected at least 9 tokens .*, found 0 in d"
    ):
        open_domain(DomainSource("d", tmp_path / "d"), split="train", sequence_length=8)


def test_a_split_that_was_not_built_is_refused(tmp_path):
    create_domain(tmp_path / "d", IDENTITY, {"train": counting_documents([30])})
    with pytest.raises(ShardError, match="splits: expected valid, found only train"):
        open_domain(DomainSource("d", tmp_path / "d"), split="valid", sequence_length=8)


@pytest.mark.parametrize("changes", [{"tokens": 51}, {"documents": 3}])
def test_a_manifest_that_contradicts_a_shard_is_refused(folder, changes):
    edit_entry(folder / "code", **changes)
    with pytest.raises(ShardError, match=r"train-00000\.idx: expected .* by the manifest, found "):
        open_domains(folder, split="train", sequence_length=8)


def test_an_id_too_large_for_the_vocabulary_is_refused_at_once(folder):
    edit_entry(folder / "code", max_token=50_000)
    with pytest.raises(ShardError, match="below vocab_size = 50000, found max_token = 50000"):
        open_domains(folder, split="train", sequence_length=8)


def test_a_truncated_bin_is_refused_when_the_domain_is_opened(folder):
    tokens = folder / "code" / "train-00000.bin"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    with pytest.raises(ShardError, match=f"{tokens}: expected 100 bytes by its index, found 99"):
        open_domains(folder, split="train", sequence_length=8)


def test_each_manifest_and_header_is_read_once(folder):
    with watched_opens() as paths:
        open_domains(folder, split="train", sequence_length=8)
    assert sorted(paths) == sorted(
        str(folder / name / file)
        for name in ("code", "novels")
        for file in ("manifest.json", "train-00000.idx")
    )


def test_domains_too_short_for_a_window_are_listed_separately(folder):
    counting_domain(folder / "crumbs", [3, 5])
    opened = open_split(read_folders(folder), split="train", sequence_length=8)
    assert [domain.name for domain in opened.domains] == ["code", "novels"]
    assert opened.too_short == {"crumbs": 8}


@pytest.fixture
def grouped(tmp_path):
    """Three domains over shards that are cut after every document or two."""
    train = {"b": [10, 10], "a": [3], "c": [20, 1]}
    return grouped_folder(tmp_path / "grouped", {"train": train}, shard_tokens=11)


def test_domains_that_share_shards_keep_their_order_and_never_leave_their_own_tokens(grouped):
    opened = open_split(read_folders(grouped), split="train", sequence_length=4)
    assert opened.too_short == {"a": 3}
    b, c = opened.domains
    assert (b.name, b.num_documents, b.num_tokens, b.num_sequences) == ("b", 2, 20, 4)
    assert (c.name, c.num_documents, c.num_tokens, c.num_sequences) == ("c", 2, 21, 5)
    assert b.windows(np.array([3])).tolist() == [[12, 13, 14, 15, 16]]
    assert c.windows(np.array([0, 4])).tolist() == [list(range(23, 28)), list(range(39, 44))]
    with pytest.raises(IndexError, match=r"b: expected windows in \[0, 4\), found 4 to 4"):
        b.windows(np.array([4]))
    assert c.tokens(19, 21).tolist() == [42, 43]
    with pytest.raises(IndexError, match="b: expected 0 <= start <= stop <= 20, found 19 and 21"):
        b.tokens(19, 21)


def test_a_domain_of_shared_shards_that_is_too_short_is_refused_by_name(grouped):
    with pytest.raises(ShardError, match=rf"{grouped}: split train: .*5 tokens .*found 3 in a$"):
        open_domains(grouped, split="train", sequence_length=4)


def test_a_grouped_folder_is_refused_as_a_single_domain(grouped):
    with pytest.raises(ShardError, match="grouping: expected the folder of one domain, found 3"):
        open_domain(DomainSource("x", grouped), split="train", sequence_length=2)


def test_262144_grouped_domains_are_opened_from_few_files(tmp_path):
    num_domains, num_shards, length = 1 << 18, 4, 8
    shard = np.zeros(num_domains // num_shards * (length + 1), dtype=np.int64)
    manifest = create_domain(
        tmp_path / "d", IDENTITY, {"train": [shard] * num_shards}, shard_tokens=shard.size
    )
    tokens = np.arange(num_domains + 1) * (length + 1)
    documents = np.arange(num_domains + 1) * num_shards // num_domains
    names = tuple(f"c{index:06d}" for index in range(num_domains))
    grouping = Grouping(names, {"train": Bounds(tokens, documents)})
    entry = write_grouping(tmp_path / "d", grouping)
    write_manifest(tmp_path / "d", replace(manifest, grouping=entry))
    with watched_opens() as paths:
        domains = open_domains(tmp_path / "d", split="train", sequence_length=length)
    assert len(domains) == num_domains
    assert len(paths) == 1 + 2 + num_shards  # manifest, domains.npz and its checksum, headers
    with watched_opens() as paths:
        domains[200_000].windows(np.array([0]))
    assert paths == [str(tmp_path / "d" / "train-00003.bin")]
    chosen = Selection(np.arange(0, num_domains, 256), np.zeros(1024, dtype=np.int64))
    with watched_opens() as paths:
        read_windows(domains, chosen)
    assert len(paths) == num_shards
