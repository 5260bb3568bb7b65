"""Values of documents, against numbers by hand and against the documents of each window."""

import json
from pathlib import Path

import numpy as np
import pytest

from megadga.data.indexed import ids_path
from megadga.data.located import documents_of_window
from megadga.errors import ShardError
from megadga.value.documents import encode_documents, share_by_targets, value_documents
from megadga.value.recursion import SequenceValues
from tests.support.shards import SEQUENCE_LENGTH, open_sets, write_sets


def test_a_sequence_is_shared_by_the_targets_of_each_document():
    # Documents of 3, 0, 6 and 11 tokens; windows of 4 targets: tokens 1-4, 5-8 and 1-4 again.
    shared = share_by_targets(
        np.array([8.0, -2.0, 4.0]),
        np.array([5, 5, 5]),
        np.array([0, 4, 0]),
        np.array([0, 3, 3, 9, 20]),
        sequence_length=4,
    )
    assert shared.documents.tolist() == [0, 2]  # the empty one has no target, the last no window
    # Tokens 1, 2 are the first one's: half of 8 and of 4; the rest, and all of -2, the third's.
    assert shared.values.tolist() == [4.0 + 2.0, 4.0 - 2.0 + 2.0]
    assert shared.tokens.tolist() == [4, 8]
    assert shared.sequences.tolist() == [2, 3]
    assert shared.domains.tolist() == [5, 5]


def test_the_first_token_of_a_window_is_no_target_and_its_document_has_no_part():
    shared = share_by_targets(
        np.array([1.0]), np.array([0]), np.array([2]), np.array([0, 3, 5, 9]), sequence_length=2
    )
    assert shared.documents.tolist() == [1]
    assert shared.values.tolist() == [1.0]


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    return write_sets(tmp_path / "shards", num_domains=3)


def drawn(domains: list[int], windows: list[int]) -> SequenceValues:
    """Sequences in steps of two, whose values are powers of two: their sums are exact."""
    shape = (len(domains) // 2, 2)
    powers = [2.0**number * (-1.0) ** number for number in range(len(domains))]
    values = np.array(powers).reshape(shape)
    return SequenceValues(
        values, np.reshape(domains, shape), np.reshape(windows, shape), values, ()
    )


def test_documents_of_shards_are_those_of_each_window_and_their_values_add_up(sets):
    domains, _ = open_sets(sets)
    found = drawn([0, 2] * 12, [*range(12), *range(6), *range(6)])

    documents = value_documents(found, domains)

    expected: dict[tuple[str, int], float] = {}
    for value, domain, window in zip(
        found.values.ravel(), found.domains.ravel(), found.windows.ravel(), strict=True
    ):
        skipped = 1  # the first token
        for part in documents_of_window(domains[domain], int(window)):
            targets = part.end - part.begin - skipped
            skipped = 0
            key = (str(part.shard), part.document)
            expected[key] = expected.get(key, 0.0) + value * targets / SEQUENCE_LENGTH
    assert {(str(each.shard), each.document): each.value for each in documents} == expected
    assert sum(each.value for each in documents) == found.values.sum()
    assert sum(each.tokens for each in documents) == 24 * SEQUENCE_LENGTH
    assert {each.domain for each in documents} == {"d0", "d2"}
    values = [each.value for each in documents]
    assert values == sorted(values, reverse=True)
    assert {each.id for each in documents} == {None}


def test_ids_are_told_where_shards_carry_them(sets):
    domains, _ = open_sets(sets)
    path = ids_path(sets / "domains" / "d0" / "train-00000")
    path.write_text("".join(f'"page {index}"\n' for index in range(domains[0].num_documents)))

    documents = value_documents(drawn([0, 1], [3, 3]), domains)

    lines = [json.loads(line) for line in encode_documents(documents).decode().splitlines()]
    assert len(lines) == len(documents)
    for line in lines:
        has_id = line["domain"] == "d0"
        assert line.get("id") == (f"page {line['document']}" if has_id else None)
        assert ("id" in line) is has_id
    path.write_text('"page 0"\n')
    with pytest.raises(ShardError, match=r"train-00000.ids: expected more than \d+ ids"):
        value_documents(drawn([0, 0], [3, 3]), domains)
