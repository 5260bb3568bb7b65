import struct
from dataclasses import replace

import numpy as np
import pytest

from megadga.data.folder import DomainSource
from megadga.data.indexed import HEADER, ShardWriter, best_dtype
from megadga.data.inspection import (
    SplitSummary,
    find_sources,
    inspect_domain,
    read_document,
    render_labels,
    render_table,
)
from megadga.data.labels import Label, Labels, Parent
from megadga.data.manifest import Manifest, write_manifest
from megadga.errors import ShardError
from tests.support.raw_shards import overwrite
from tests.support.shards import write_grouped
from tests.support.streams import IDENTITY, counting_domain


@pytest.fixture
def source(tmp_path) -> DomainSource:
    folder = counting_domain(tmp_path / "shards" / "d", [6, 7, 8], shard_tokens=10)
    return DomainSource("d", folder)


def test_a_domain_is_found_from_its_own_folder_and_its_parent(source):
    assert find_sources(source.path) == find_sources(source.path.parent) == (source,)


def test_a_domain_is_summed_up_over_its_shards(source):
    (train,) = inspect_domain(replace(source, name="called"))
    assert train == SplitSummary("called", "train", 3, 21, IDENTITY.fingerprint)


def test_grouped_domains_are_counted_separately(tmp_path):
    write_grouped(tmp_path / "many", ["a", "b", "c"])
    train, valid = inspect_domain(DomainSource("many", tmp_path / "many"))
    assert (train.split, len(train.shared), sum(train.shared)) == ("train", 3, train.num_tokens)
    assert train.num_sequences(5) == sum((size - 1) // 5 for size in train.shared)
    low, median, high = sorted(valid.shared)
    table, described = render_table([valid]).rsplit("\n", 1)
    assert table == render_table([replace(valid, shared=())])
    assert described == (
        f"many/valid: 3 domains, 0 empty; tokens per domain: {low} to {high}, median {median}"
    )


def test_inspecting_opens_every_shard(source):
    (source.path / "train-00001.bin").unlink()
    with pytest.raises(ShardError, match=r"train-00001\.bin: expected .*, found No such file"):
        inspect_domain(source)


@pytest.mark.parametrize(("index", "first"), [(0, 0), (1, 6), (2, 13)])
def test_documents_are_counted_through_all_shards(source, index, first):
    stored = read_document(source, IDENTITY, split="train", index=index)
    assert stored.tokens.tolist() == list(range(first, first + 6 + index))
    assert stored.document_id is None


@pytest.fixture
def named(tmp_path) -> DomainSource:
    """Two shards of two documents each, whose ids were kept."""
    folder = tmp_path / "named"
    folder.mkdir()
    entries = []
    for shard in range(2):
        with ShardWriter(folder / f"train-{shard}", best_dtype(100), ids=True) as writer:
            for index in range(2):
                writer.add_document(np.array([shard, index]), f"page {2 * shard + index}")
        entries.append(writer.entry)
    write_manifest(folder, Manifest("named", IDENTITY, {"train": tuple(entries)}))
    return DomainSource("named", folder)


@pytest.mark.parametrize("index", range(4))
def test_a_document_comes_with_its_id(named, index):
    stored = read_document(named, IDENTITY, split="train", index=index)
    assert stored.document_id == f"page {index}"
    assert stored.tokens.tolist() == list(divmod(index, 2))


def test_a_document_whose_id_is_missing_is_refused(named):
    path = named.path / "train-1.ids"
    path.write_text('"page 2"\n')
    with pytest.raises(ShardError, match=f"^{path}: expected 2 ids, found at most 1"):
        read_document(named, IDENTITY, split="train", index=3)


def test_a_document_of_a_damaged_index_is_refused(source):
    path = source.path / "train-00001.idx"
    overwrite(path, HEADER.size + 12, struct.pack("<q", 7))
    with pytest.raises(ShardError, match=f"^{path}: document bound 0: expected .*, found 7"):
        read_document(source, IDENTITY, split="train", index=2)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_document_that_does_not_exist_is_refused(source, index):
    with pytest.raises(ShardError, match=rf"expected a document in \[0, 3\), found {index}"):
        read_document(source, IDENTITY, split="train", index=index)


def test_documents_of_another_tokenizer_are_refused(source):
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


def test_labels_are_shown_where_there_are_some(source):
    (train,) = inspect_domain(source)
    titles, row = render_table([train], labels={"d": Label(("cell", "gene"))}).splitlines()
    assert titles.split()[-1] == "label"
    assert row.endswith("  cell, gene")
    assert render_table([train], labels={"e": Label(("cell",))}) == render_table([train])


def test_of_many_labels_the_first_are_shown_or_those_of_the_clusters_above():
    labels = {f"c{number:02d}": Label((f"word{number}",)) for number in range(22)}
    *rows, more = render_labels(Labels(labels)).splitlines()
    assert (len(rows), rows[3], more) == (20, "c03  word3", "and 2 more")
    above = {"c0 of 1": Parent(("sea", "ship"), tuple(labels))}
    assert render_labels(Labels(labels, above)) == "c0 of 1  sea, ship"
