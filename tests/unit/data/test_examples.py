import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.create import create_domain
from megadga.data.examples import Examples, open_examples
from megadga.data.folder import DomainSource, open_domain
from megadga.data.indexed import IndexedShard, ShardWriter, best_dtype
from megadga.data.targets import PADDING
from megadga.errors import ShardError
from tests.support.streams import IDENTITY, counting_documents, counting_domain


def open_counting(folder, lengths, *, sequence_length, shard_tokens=1 << 20) -> Examples:
    counting_domain(folder, lengths, shard_tokens=shard_tokens)
    source = DomainSource("counting", folder)
    return open_examples(source, split="train", sequence_length=sequence_length)


def all_windows(examples: Examples) -> list[list[int]]:
    return examples.windows(np.arange(examples.num_sequences)).tolist()


def test_a_short_document_is_one_padded_sequence(tmp_path):
    examples = open_counting(tmp_path / "d", [2, 5, 3], sequence_length=4)
    assert all_windows(examples) == [
        [0, 1, PADDING, PADDING, PADDING],
        [2, 3, 4, 5, 6],
        [7, 8, 9, PADDING, PADDING],
    ]
    assert examples.num_targets(np.array([0, 1, 2])).tolist() == [1, 4, 2]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (5, [[0, 1, 2, 3, 4]]),
        (6, [[0, 1, 2, 3, 4], [4, 5, PADDING, PADDING, PADDING]]),
        (9, [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]),
        (10, [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, PADDING, PADDING, PADDING]]),
    ],
)
def test_a_long_document_is_split_into_several_sequences(tmp_path, length, expected):
    assert all_windows(open_counting(tmp_path / "d", [length], sequence_length=4)) == expected


@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=12),
    sequence_length=st.integers(1, 20),
    shard_tokens=st.integers(3, 40),
)
def test_every_token_but_the_first_of_a_document_is_a_target_once(
    tmp_path_factory, lengths, sequence_length, shard_tokens
):
    examples = open_counting(
        tmp_path_factory.mktemp("sets") / "d",
        lengths,
        sequence_length=sequence_length,
        shard_tokens=shard_tokens,
    )

    windows = examples.windows(np.arange(examples.num_sequences))

    inputs, targets = windows[:, :-1], windows[:, 1:]
    real = targets != PADDING
    documents = counting_documents(lengths)
    assert targets[real].tolist() == [token for tokens in documents for token in tokens[1:]]
    assert inputs[real].tolist() == [token for tokens in documents for token in tokens[:-1]]
    num_targets = examples.num_targets(np.arange(examples.num_sequences))
    assert num_targets.tolist() == real.sum(axis=1).tolist()
    assert num_targets.min() >= 1
    assert examples.num_long == sum(length > sequence_length + 1 for length in lengths)
    assert examples.padding_share == pytest.approx(1 - real.mean())


def test_sequences_are_returned_in_the_requested_order(tmp_path):
    examples = open_counting(tmp_path / "d", [3, 4, 9], sequence_length=4, shard_tokens=3)
    asked = np.array([3, 0, 1, 0])
    expected = all_windows(examples)
    assert examples.windows(asked).tolist() == [expected[index] for index in asked]
    assert examples.windows(np.array([], dtype=np.int64)).shape == (0, 5)


def test_a_set_reports_its_counts(tmp_path):
    examples = open_counting(tmp_path / "d", [2, 5, 9, 13], sequence_length=4, shard_tokens=8)
    assert (examples.name, examples.num_documents, examples.num_tokens) == ("counting", 4, 29)
    assert (examples.num_sequences, examples.num_long) == (7, 2)
    assert examples.padding_share == 1 - 25 / 28


def test_the_windows_of_a_stream_count_all_their_targets(tmp_path):
    counting_domain(tmp_path / "d", [30])
    domain = open_domain(DomainSource("d", tmp_path / "d"), split="train", sequence_length=7)
    assert domain.num_targets(np.array([2, 0, 1])).tolist() == [7, 7, 7]


@pytest.mark.parametrize("length", [0, 1])
def test_a_document_without_a_target_is_refused_by_shard_and_number(tmp_path, length):
    prefix = tmp_path / "train-00000"
    with ShardWriter(prefix, best_dtype(100)) as writer:
        for tokens in ([3, 2], [3, 4, 2], [2]):
            writer.add_document(np.array(tokens))
    if length == 0:  # the second document takes the third's token
        index = prefix.with_suffix(".idx")
        content = index.read_bytes()
        index.write_bytes(content[:-16] + np.array([3, 3], dtype="<i8").tobytes())
    with pytest.raises(ShardError) as caught:
        Examples("d", tmp_path, [IndexedShard.open(prefix)], IDENTITY, sequence_length=4)
    assert str(caught.value) == (
        f"{prefix}.idx: document 2: expected at least 2 tokens, an input and a target, "
        f"found {length}"
    )


def test_an_id_outside_the_vocabulary_is_refused_by_file_and_offset(tmp_path):
    counting_domain(tmp_path / "d", [6, 7, 3], shard_tokens=6)
    tokens = tmp_path / "d" / "train-00001.bin"
    content = np.fromfile(tokens, dtype=np.uint16)
    content[5] = 50_000
    tokens.write_bytes(content.tobytes())
    examples = open_examples(DomainSource("d", tmp_path / "d"), split="train", sequence_length=4)
    assert examples.windows(np.array([0, 2])).tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    with pytest.raises(ShardError) as caught:
        examples.windows(np.array([0, 3]))
    assert str(caught.value) == f"{tokens}: token 5: expected an id in [0, 50000), found 50000"


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_never_wraps(tmp_path, index):
    examples = open_counting(tmp_path / "d", [3, 3, 3], sequence_length=4)
    for act in (examples.windows, examples.num_targets):
        with pytest.raises(IndexError, match=r"expected sequences in \[0, 3\)"):
            act(np.array([0, index]))


def test_a_damaged_index_is_refused_where_the_set_is_opened(tmp_path):
    counting_domain(tmp_path / "d", [3, 4, 5])
    index = tmp_path / "d" / "train-00000.idx"
    content = bytearray(index.read_bytes())
    content[34] = 2  # the first document ends a token early, and the second begins where it did
    index.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-00000\.idx: sentence 1: expected byte offset 4"):
        open_examples(DomainSource("d", tmp_path / "d"), split="train", sequence_length=4)


def test_a_split_without_documents_is_refused(tmp_path):
    create_domain(tmp_path / "d", IDENTITY, {"train": counting_documents([4]), "valid": []})
    with pytest.raises(ShardError, match="split valid: expected a document, found none"):
        open_examples(DomainSource("d", tmp_path / "d"), split="valid", sequence_length=4)


def test_a_sequence_length_below_one_is_refused(tmp_path):
    counting_domain(tmp_path / "d", [4])
    with pytest.raises(ValueError, match="expected a sequence_length and documents of at least 1"):
        open_examples(DomainSource("d", tmp_path / "d"), split="train", sequence_length=0)
