import json
from dataclasses import replace

import pytest

from megadga.errors import ShardError
from megadga.shards.create import create_domain
from megadga.shards.folder import DomainSource, find_domains, open_domain, open_domains
from megadga.shards.manifest import manifest_path
from tests.support.streams import IDENTITY, counting_documents, counting_domain


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
    with pytest.raises(ShardError, match=f"{tmp_path}: expected one folder a domain, found no"):
        find_domains(tmp_path)


def test_no_folder_at_all_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"no-such: expected a folder .*, found none"):
        find_domains(tmp_path / "no-such")


def test_a_domains_own_folder_is_not_taken_for_a_folder_of_domains(folder):
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
