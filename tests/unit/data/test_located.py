"""The documents of a window, against those that are cut from the whole stream."""

import numpy as np
import pytest

from megadga.data.folder import DomainSource, open_domain, open_domains
from megadga.data.indexed import IndexedShard
from megadga.data.located import documents_of_window
from tests.support.streams import counting_domain, grouped_folder

LENGTHS = (1, 12, 3, 3, 1, 1, 40, 2, 5, 9, 31, 4, 4)


@pytest.mark.parametrize("shard_tokens", [1 << 20, 20])
def test_a_window_is_made_of_the_parts_of_its_documents(tmp_path, shard_tokens):
    folder = counting_domain(tmp_path / "d", LENGTHS, shard_tokens=shard_tokens)
    domain = open_domain(DomainSource("d", folder), split="train", sequence_length=7)
    for window in range(domain.num_sequences):
        parts = documents_of_window(domain, window)
        pieces = [
            IndexedShard.open(part.shard).document(part.document)[part.begin : part.end]
            for part in parts
        ]
        (expected,) = domain.windows(np.array([window]))
        np.testing.assert_array_equal(np.concatenate(pieces), expected)
        assert [part.length for part in parts] == [
            IndexedShard.open(part.shard).document(part.document).size for part in parts
        ]


def test_documents_are_numbered_in_the_shards_that_domains_share(tmp_path):
    folder = grouped_folder(tmp_path / "g", {"train": {"a": [9, 9], "b": [5, 30]}})
    _, second = open_domains(folder, split="train", sequence_length=7)
    (part, other) = documents_of_window(second, 0)
    assert (part.document, part.begin, part.end, part.length) == (2, 0, 5, 5)
    assert (other.document, other.begin, other.end, other.length) == (3, 0, 3, 30)
