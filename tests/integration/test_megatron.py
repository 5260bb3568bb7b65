"""Our shards under Megatron's own reader, and its builder's under ours."""

import warnings
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megadga.data.create import adopt_shards
from megadga.data.folder import DomainSource, open_domain
from megadga.data.indexed import DTYPE_CODES, IndexedShard, ShardWriter, best_dtype
from megadga.data.manifest import TokenizerIdentity
from megadga.data.merge import merge_domains, read_merge_sources
from megadga.errors import ShardError
from tests.support.raw_shards import problems_of

VOCAB_SIZES = (50_000, 200_000)


@cache
def megatron() -> Any:
    """Import Megatron's own, where it is needed alone: it takes a process two seconds."""
    with warnings.catch_warnings(action="ignore"):  # torch warns of its own code
        from megatron.core.datasets import indexed_dataset  # noqa: PLC0415
    return indexed_dataset


def random_documents(vocab_size: int, *, count: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(vocab_size)
    return [rng.integers(vocab_size, size=size) for size in rng.integers(1, 50, size=count)]


def build_with_megatron(
    prefix: Path, documents: Sequence[np.ndarray], dtype: type, *, sentences: int = 1
) -> None:
    builder = megatron().IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        for sentence in np.array_split(document, sentences):
            builder.add_item(torch.from_numpy(sentence))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def open_built(folder: Path, vocab_size: int, *, sequence_length: int):
    """Open what ``build_with_megatron`` wrote, after writing its manifest."""
    identity = TokenizerIdentity("sentencepiece", "0" * 64, vocab_size=vocab_size, eod=2)
    adopt_shards(folder, identity)
    source = DomainSource("built", folder)
    return open_domain(source, split="train", sequence_length=sequence_length)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_megatron_reads_our_shards(tmp_path, vocab_size):
    documents = random_documents(vocab_size)
    with ShardWriter(tmp_path / "train-00000", best_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add_document(document)
    dataset = megatron().IndexedDataset(str(tmp_path / "train-00000"))
    assert len(dataset) == len(documents)
    assert dataset.index.dtype == best_dtype(vocab_size)
    assert dataset.document_indices.tolist() == list(range(len(documents) + 1))
    for index, document in enumerate(documents):
        assert dataset[index].tolist() == document.tolist()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_our_files_are_megatrons_byte_for_byte(tmp_path, vocab_size):
    documents = random_documents(vocab_size)
    build_with_megatron(tmp_path / "theirs", documents, megatron().DType.optimal_dtype(vocab_size))
    with ShardWriter(tmp_path / "ours", best_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add_document(document)
    for suffix in (".bin", ".idx"):
        ours, theirs = (tmp_path / f"{name}{suffix}" for name in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("code", DTYPE_CODES)
@pytest.mark.parametrize("sentences", [1, 3])
def test_we_read_megatrons_shards(tmp_path, code, sentences):
    documents = random_documents(100)
    build_with_megatron(
        tmp_path / "theirs.v1",
        documents,
        megatron().DType.dtype_from_code(code),
        sentences=sentences,
    )
    shard = IndexedShard.open(tmp_path / "theirs.v1")
    assert shard.num_documents == len(documents)
    assert shard.num_sentences == len(documents) * sentences
    for index, document in enumerate(documents):
        assert shard.document(index).tolist() == document.tolist()


def test_windows_over_megatrons_shards_are_slices_of_its_stream(tmp_path):
    documents = random_documents(200_000)
    build_with_megatron(tmp_path / "train-00000", documents, np.int32)
    domain = open_built(tmp_path, 200_000, sequence_length=16)
    stream = np.concatenate(documents)
    windows = domain.windows(np.arange(domain.num_sequences))
    assert domain.num_sequences == (stream.size - 1) // 16
    for window, (start, stop) in zip(windows, pairwise(range(0, stream.size, 16)), strict=False):
        assert window.tolist() == stream[start : stop + 1].tolist()


def test_megatrons_shards_of_any_shape_are_adopted_and_verify(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    documents = [np.append(document, 2) for document in random_documents(200_000)]
    documents[3][-1] = 7
    build_with_megatron(folder / "web_2_text_document", documents, np.int32, sentences=3)
    build_with_megatron(folder / "web_10_text_document", [], np.int32)
    build_with_megatron(folder / "valid_text_document", documents[:5], np.int32)
    identity = TokenizerIdentity("sentencepiece", "0" * 64, vocab_size=200_000, eod=2)
    adopted = adopt_shards(folder, identity, valid="valid_*")
    files = {name: [one.file for one in its] for name, its in adopted.manifest.splits.items()}
    assert files == {
        "train": ["web_2_text_document", "web_10_text_document"],
        "valid": ["valid_text_document"],
    }
    assert [one.documents for one in adopted.manifest.splits["train"]] == [20, 0]
    assert adopted.without_eod == 2
    assert problems_of(folder) == []
    merge_domains(read_merge_sources([folder]), tmp_path / "merged")
    merged = megatron().IndexedDataset(str(tmp_path / "merged" / "train-00000"))
    for index, document in enumerate(documents):
        assert merged[index].tolist() == document.tolist()  # pyright: ignore[reportAttributeAccessIssue]


def test_an_id_beyond_the_vocabulary_is_not_adopted(tmp_path):
    build_with_megatron(tmp_path / "web", [np.array([5, 99_999, 2])], np.int32)
    with pytest.raises(ShardError, match=r"web\.bin: token 1: expected .* 50000\), found 99999"):
        open_built(tmp_path, 50_000, sequence_length=2)


def test_merged_megatron_shards_are_read_as_one(tmp_path):
    documents = random_documents(100)
    build_with_megatron(tmp_path / "a", documents[:5], np.uint16)
    build_with_megatron(tmp_path / "b", documents[5:], np.uint16)
    builder = megatron().IndexedDatasetBuilder(f"{tmp_path / 'merged'}.bin", dtype=np.uint16)
    builder.add_index(str(tmp_path / "a"))
    builder.add_index(str(tmp_path / "b"))
    builder.finalize(f"{tmp_path / 'merged'}.idx")
    shard = IndexedShard.open(tmp_path / "merged")
    assert [shard.document(i).tolist() for i in range(20)] == [d.tolist() for d in documents]


def test_a_multimodal_shard_is_refused_as_what_it_is(tmp_path):
    builder = megatron().IndexedDatasetBuilder(
        f"{tmp_path / 'm'}.bin", dtype=np.int32, multimodal=True
    )
    builder.add_item(torch.tensor([1, 2]), mode=0)
    builder.end_document()
    builder.finalize(f"{tmp_path / 'm'}.idx")
    with pytest.raises(ShardError, match="expected an index of text, found a multimodal index"):
        IndexedShard.open(tmp_path / "m")
