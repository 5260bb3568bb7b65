from dataclasses import replace

import pytest

from megadga.errors import ShardError
from megadga.shards.folder import DomainSource
from megadga.shards.inspection import (
    SplitSummary,
    find_sources,
    inspect_domain,
    read_document,
    render_table,
)
from tests.support.streams import IDENTITY, counting_domain


@pytest.fixture
def source(tmp_path) -> DomainSource:
    folder = counting_domain(tmp_path / "shards" / "d", [6, 7, 8], shard_tokens=10)
    return DomainSource("d", folder)


def test_a_domains_own_folder_and_its_parent_both_lead_to_it(source):
    assert find_sources(source.path) == find_sources(source.path.parent) == (source,)


@pytest.mark.parametrize("verify", [False, True])
def test_a_domain_is_summed_up_over_its_shards(source, verify):
    (train,) = inspect_domain(replace(source, name="called"), verify=verify)
    assert train == SplitSummary("called", "train", 3, 21, IDENTITY.fingerprint)


def test_only_verifying_finds_a_changed_byte(source):
    tokens = source.path / "train-00000.bin"
    tokens.write_bytes(b"\1" + tokens.read_bytes()[1:])
    inspect_domain(source, verify=False)
    with pytest.raises(ShardError, match="train-00000: bin_sha256: expected "):
        inspect_domain(source, verify=True)


@pytest.mark.parametrize(("index", "first"), [(0, 0), (1, 6), (2, 13)])
def test_documents_are_counted_through_all_shards(source, index, first):
    tokens = read_document(source, IDENTITY, split="train", index=index)
    assert tokens.tolist() == list(range(first, first + 6 + index))


@pytest.mark.parametrize("index", [-1, 3])
def test_a_document_that_does_not_exist_is_refused(source, index):
    with pytest.raises(ShardError, match=rf"expected a document in \[0, 3\), found {index}"):
        read_document(source, IDENTITY, split="train", index=index)


def test_another_tokenizers_ids_are_not_handed_out(source):
    other = replace(IDENTITY, fingerprint="0" * 64)
    with pytest.raises(ShardError, match=r"manifest\.json: tokenizer: expected .*found "):
        read_document(source, other, split="train", index=0)


def test_the_table_aligns_numbers_to_the_right():
    table = render_table(
        [
            SplitSummary("a", "train", 5, 12_345, "f" * 64),
            SplitSummary("longer", "valid", 0, 0, "0" * 64),
        ],
        sequence_length=100,
    )
    assert table.splitlines() == [
        "domain  split  documents  tokens  windows  tokenizer",
        "a       train          5  12,345      123  ffffffffffff",
        "longer  valid          0       0        0  000000000000",
    ]
