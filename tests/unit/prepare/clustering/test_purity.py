import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.prepare.clustering.training import ClusterSummary, purity, summarize_clusters


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("clusters", "labels", "expected"),
    [
        (ints(0, 0, 1, 1), ints(5, 5, 6, 6), 1.0),
        (ints(0, 0, 0, 0), ints(5, 5, 6, 7), 0.5),
        (ints(0, 0, 0, 2, 2), ints(1, 1, 2, 2, 1), 0.6),
        (ints(0, 1, 2, 3), ints(0, 0, 0, 0), 1.0),
        (ints(7), ints(0), 1.0),
    ],
)
def test_purity_is_the_share_of_the_most_frequent_labels(clusters, labels, expected):
    assert purity(clusters, labels) == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1), st.randoms())
def test_the_order_of_items_does_not_matter_and_splitting_never_hurts(pairs, random):
    clusters, labels = np.array(pairs).T
    shuffled = random.sample(pairs, len(pairs))
    assert purity(*np.array(shuffled).T) == purity(clusters, labels)
    assert purity(clusters // 2, labels) <= purity(clusters, labels)


@pytest.mark.parametrize("labels", [ints(), ints(1, 2), np.zeros((1, 1), dtype=np.int64)])
def test_other_shapes_are_a_mistake(labels):
    with pytest.raises(ValueError, match="labels: expected shape"):
        purity(ints(1), labels)


def test_no_item_has_no_purity():
    with pytest.raises(ValueError, match="labels: expected shape"):
        purity(ints(), ints())


def test_every_level_is_summarized():
    found = summarize_clusters(ints(0, 1, 1, 5), ints(0, 0, 1, 1), levels=(2, 6))
    assert found == (
        ClusterSummary(clusters=2, purity=0.75, empty=0, smallest=1, median=2.0, largest=3),
        ClusterSummary(clusters=6, purity=0.75, empty=3, smallest=0, median=0.5, largest=2),
    )
