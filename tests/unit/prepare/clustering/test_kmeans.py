import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import unit_rows
from megadga.prepare.clustering.tree import (
    POINTS_PER_CENTROID,
    count_runs,
    grow_tree,
    spherical_kmeans,
)


def bunches(num_bunches: int, each: int, *, dimension: int = 16, seed: int = 0) -> np.ndarray:
    """Points close to some directions, one bunch after the other."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(num_bunches, dimension))
    points = np.repeat(centers, each, axis=0)
    return unit_rows((points + 0.01 * rng.normal(size=points.shape)).astype(np.float32))


def assert_unit_or_empty(centroids: np.ndarray, *, num_empty: int) -> None:
    norms = np.linalg.norm(centroids, axis=1)
    assert sorted(norms) == pytest.approx(
        [0] * num_empty + [1] * (len(norms) - num_empty), abs=1e-6
    )


def test_two_bunches_get_a_centre_each():
    points = bunches(2, 50)
    centroids = spherical_kmeans(points, 2, seed=0)
    assert_unit_or_empty(centroids, num_empty=0)
    means = unit_rows(points.reshape(2, 50, 16).mean(axis=1))
    assert sorted((centroids @ means.T).max(axis=1)) == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("num_points", [0, 1, 3, 5])
def test_few_points_are_centres_themselves_and_the_rest_is_empty(num_points):
    points = bunches(5, 1)[:num_points]
    centroids = spherical_kmeans(np.concatenate([points, points]), 5, seed=0)
    assert_unit_or_empty(centroids, num_empty=5 - num_points)
    found = {row.tobytes() for row in centroids if row.any()}
    assert found == {row.tobytes() for row in points}


def test_no_cluster_is_empty_if_there_are_enough_points():
    assert_unit_or_empty(spherical_kmeans(bunches(3, 30), 20, seed=0), num_empty=0)


def test_every_level_has_as_many_clusters_as_asked_for():
    points = bunches(12, 40)
    tree = grow_tree(points, [3, 12, 48], seed=1)
    assert tree.levels == (3, 12, 48)
    assert [tree.centroids(level).shape for level in tree.levels] == [(3, 16), (12, 16), (48, 16)]


def test_bunches_are_never_torn_apart_at_the_coarse_level():
    clusters = grow_tree(bunches(12, 40), [3, 12], seed=1).assign(bunches(12, 40), 3)
    assert (clusters.reshape(12, 40) == clusters.reshape(12, 40)[:, :1]).all()
    assert set(clusters.tolist()) == {0, 1, 2}


def test_clusters_with_fewer_points_than_children_have_empty_children():
    points = bunches(4, 1)
    tree = grow_tree(points, [2, 2 * 8, 2 * 8 * 8], seed=0)
    for level in (16, 128):
        assert_unit_or_empty(tree.centroids(level), num_empty=level - 4)
        assert len(set(tree.assign(points, level).tolist())) == 4
    others = bunches(50, 1, seed=1)
    assert set(tree.assign(others, 128).tolist()) <= set(tree.assign(points, 128).tolist())


def test_the_same_points_and_seed_give_the_same_bits():
    points = bunches(40, 60)
    with threadpool_limits(1):
        first, second = (grow_tree(points, [4, 64], seed=2) for _ in range(2))
    assert first.centroids(64).tobytes() == second.centroids(64).tobytes()
    assert grow_tree(points, [4, 64], seed=3).centroids(64).tobytes() != (
        first.centroids(64).tobytes()
    )


def test_points_may_be_a_file(tmp_path):
    points = bunches(10, 20)
    points.tofile(tmp_path / "points")
    mapped = np.memmap(tmp_path / "points", np.float32, "r").reshape(points.shape)
    with threadpool_limits(1):
        found, expected = (grow_tree(array, [2, 8], seed=0) for array in (mapped, points))
    assert found.centroids(8).tobytes() == expected.centroids(8).tobytes()


def test_no_run_sees_more_points_than_it_needs(monkeypatch):
    seen: list[tuple[int, int]] = []

    def counting(points, num_clusters, *, seed):
        seen.append((len(points), num_clusters))
        return spherical_kmeans(points, num_clusters, seed=seed)

    monkeypatch.setattr("megadga.prepare.clustering.tree.spherical_kmeans", counting)
    grow_tree(bunches(3, 1000), [2, 4], seed=0)
    assert seen[0] == (2 * POINTS_PER_CENTROID, 2)
    assert all(points <= 2 * POINTS_PER_CENTROID for points, _ in seen)


def test_progress_counts_runs():
    done: list[int] = []
    grow_tree(bunches(3, 10), [3, 6, 12], seed=0, progress=done.append)
    assert sum(done) == count_runs([3, 6, 12]) == 1 + 3 + 6


def test_without_faiss_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"^faiss: .* pip install 'megadga\[clusters\]'$"):
        spherical_kmeans(bunches(3, 3), 2, seed=0)


def test_a_cluster_that_no_point_came_to_has_one_child_for_those_that_will(monkeypatch):
    point, lonely = bunches(2, 1)

    def two_centres(points, num_clusters, *, seed):
        centroids = np.zeros((num_clusters, 16), dtype=np.float32)
        centroids[0] = point if len(points) else 0
        centroids[1] = lonely if len(points) == 5 else 0
        return centroids

    monkeypatch.setattr("megadga.prepare.clustering.tree.spherical_kmeans", two_centres)
    tree = grow_tree(np.tile(point, (5, 1)), [2, 8], seed=0)
    assert tree.assign(np.stack([point, lonely]), 8).tolist() == [0, 4]
    assert tree.centroids(8)[4].tolist() == lonely.tolist()
