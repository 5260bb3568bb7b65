import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import unit_rows
from megadga.prepare.clustering.tree import ClusterTree, check_levels

ZERO = [0.0, 0.0]
EAST, NORTH, WEST, SOUTH = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]


def rows(*points: list[float]) -> np.ndarray:
    return unit_rows(np.array(points, dtype=np.float32))


def random_tree(levels: list[int], *, dimension: int = 8) -> ClusterTree:
    rng = np.random.default_rng(0)
    return ClusterTree(
        [unit_rows(rng.normal(size=(level, dimension)).astype(np.float32)) for level in levels]
    )


TREE = ClusterTree(
    [
        rows(ZERO, NORTH, SOUTH),
        rows(ZERO, ZERO, ZERO, ZERO, [-1, 2], [1, 2], [1, -2], [-1, -2], ZERO),
    ]
)


@pytest.mark.parametrize("levels", [[1], [64], [64, 4096], [2, 4, 12]])
def test_levels_divide_one_another(levels):
    assert check_levels(levels) == tuple(levels)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], "expected at least one number of clusters, found none"),
        ([0], "expected numbers of at least 1, found 0"),
        ([64, 100], "expected a multiple of 64 that is larger, found 100"),
        ([64, 64], "expected a multiple of 64 that is larger, found 64"),
        ([64, 4096, 64], "expected a multiple of 4096 that is larger, found 64"),
    ],
)
def test_other_levels_are_refused(levels, message):
    with pytest.raises(ConfigError, match=f"^levels: {message}$"):
        check_levels(levels)


@pytest.mark.parametrize(
    ("point", "coarse", "fine"),
    [
        ([-1, 5], 1, 4),
        ([1, 5], 1, 5),
        ([1, -5], 2, 6),
        ([-1, -5], 2, 7),
        (WEST, 1, 4),  # as near to north as to south: the first of equals
        (ZERO, 1, 4),  # knows nothing: the first that is not empty
    ],
)
def test_a_point_descends_to_the_nearest_child(point, coarse, fine):
    assert TREE.assign(rows(point), 3).tolist() == [coarse]
    assert TREE.assign(rows(point), 9).tolist() == [fine]


def test_an_empty_cluster_gets_no_point_even_if_all_others_point_away():
    tree = ClusterTree([rows(ZERO, EAST)])
    assert tree.assign(rows(WEST), 2).tolist() == [1]


@given(st.lists(st.integers(0, 199), max_size=50), st.sampled_from([4, 12, 60]))
def test_a_cluster_depends_on_no_other_point(chosen, level):
    tree = random_tree([4, 12, 60])
    points = unit_rows(np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32))
    together = tree.assign(points, level)
    assert tree.assign(points[chosen], level).tolist() == together[chosen].tolist()
    assert (tree.assign(points, 60) // (60 // level)).tolist() == together.tolist()


def test_a_flat_level_is_the_nearest_of_all():
    tree = random_tree([100])
    points = unit_rows(np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32))
    similarities = points.astype(np.float64) @ tree.centroids(100).T.astype(np.float64)
    assert tree.assign(points, 100).tolist() == similarities.argmax(axis=1).tolist()


def test_many_points_are_assigned_in_steps(monkeypatch):
    tree = random_tree([4, 12])
    points = unit_rows(np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32))
    at_once = tree.assign(points, 12)
    monkeypatch.setattr("megadga.prepare.clustering.tree.GATHERED_NUMBERS", 7 * 4 * 8)
    assert tree.assign(points, 12).tolist() == at_once.tolist()


def test_another_level_is_refused():
    for ask in (TREE.centroids, lambda level: TREE.assign(rows(EAST), level)):
        with pytest.raises(ConfigError, match=r"^level: expected one of 3, 9, found 4$"):
            ask(4)


@pytest.mark.parametrize(
    "centroids",
    [
        [rows(ZERO, ZERO)],
        [rows(EAST, ZERO), rows(ZERO, ZERO, EAST, ZERO)],
        [rows(EAST, NORTH), rows(EAST, ZERO, ZERO, ZERO)],
    ],
)
def test_a_cluster_is_empty_if_and_only_if_all_its_children_are(centroids):
    with pytest.raises(ConfigError, match=r"^centroids: expected centres under every"):
        ClusterTree(centroids)
