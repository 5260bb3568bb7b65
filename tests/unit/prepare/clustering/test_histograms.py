import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import unit_rows
from megadga.prepare.clustering.references import Smoothing, histogram, spread_mass
from tests.support.clusters import learn, texts_about

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
NORTHEAST = [math.sqrt(0.5), math.sqrt(0.5)]
CENTROIDS = np.array([EAST, [0.0, 0.0], NORTH, NORTHEAST], dtype=np.float32)
FLOAT32_DIGITS = 1e-6


@pytest.fixture(scope="module")
def clustering(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("clustering"))


def points(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_an_example_counts_for_its_cluster(clustering):
    texts = texts_about("sea", 3, seed=1) + texts_about("court", 1, seed=1)
    clusters = clustering.classifier(16).assign(texts)
    expected = np.bincount(clusters, minlength=16) / 4
    assert histogram(texts, clustering, 16).tolist() == expected.tolist()


def test_mass_is_spread_as_the_formula_says():
    similarities = {0: 1.0, 3: math.sqrt(0.5)}  # of east's two nearest
    weights = {index: math.exp(value / 0.5) for index, value in similarities.items()}
    found = spread_mass(points(EAST), CENTROIDS, Smoothing(nearest=2, temperature=0.5))
    expected = np.array([weights[0], 0, 0, weights[3]]) / sum(weights.values())
    assert found == pytest.approx(expected, abs=FLOAT32_DIGITS)


def test_one_nearest_gets_everything():
    found = spread_mass(points(EAST, NORTHEAST, EAST), CENTROIDS, Smoothing(1, 0.1))
    assert found.tolist() == [2, 0, 0, 1]


def test_a_high_temperature_gives_the_nearest_the_same():
    found = spread_mass(points(EAST), CENTROIDS, Smoothing(2, 1e9))
    assert found == pytest.approx([0.5, 0, 0, 0.5], abs=FLOAT32_DIGITS)


def test_an_empty_cluster_gets_nothing_however_many_are_nearest():
    found = spread_mass(points([-1.0, 0.0]), CENTROIDS, Smoothing(99, 1.0))
    assert found[1] == 0
    assert (found[[0, 2, 3]] > 0).all()


@given(st.integers(1, 60), st.integers(1, 60), st.floats(1e-3, 10), st.integers(0, 99))
def test_every_point_has_a_mass_of_one(num_points, nearest, temperature, seed):
    rng = np.random.default_rng(seed)
    rows, centroids = (
        unit_rows(rng.normal(size=(count, 8)).astype(np.float32)) for count in (num_points, 40)
    )
    mass = spread_mass(rows, centroids, Smoothing(nearest, temperature))
    assert mass.sum() == pytest.approx(num_points, rel=1e-12)
    assert (mass >= 0).all()
    assert np.count_nonzero(mass) >= min(nearest, 40) or temperature < 0.1


def test_many_points_are_spread_in_steps(monkeypatch):
    rng = np.random.default_rng(0)
    rows = unit_rows(rng.normal(size=(50, 2)).astype(np.float32))
    at_once = spread_mass(rows, CENTROIDS, Smoothing(2, 0.1))
    monkeypatch.setattr("megadga.prepare.clustering.references.COMPARED_NUMBERS", 7 * 3)
    assert spread_mass(rows, CENTROIDS, Smoothing(2, 0.1)) == pytest.approx(at_once, rel=1e-6)


@pytest.mark.parametrize("smoothing", [None, Smoothing(4, 0.1)])
def test_shares_sum_to_one_and_an_unknown_text_counts_for_the_first_cluster(clustering, smoothing):
    known = texts_about("kitchen", 3, seed=1)
    alone = histogram(known, clustering, 16, smoothing=smoothing)
    shares = histogram([*known, "unheard-of"], clustering, 16, smoothing=smoothing)
    assert shares == pytest.approx(alone * 0.75 + 0.25 * (np.arange(16) == 0), abs=1e-12)
    assert shares.sum() == pytest.approx(1, abs=1e-12)


def test_smoothing_fills_clusters_of_the_same_subject(clustering):
    texts = texts_about("sea", 2, seed=1)
    plain = histogram(texts, clustering, 16)
    smooth = histogram(texts, clustering, 16, smoothing=Smoothing(3, 0.1))
    of_the_sea = set(clustering.classifier(16).assign(texts_about("sea", 60)).tolist())
    others = set(range(16)) - of_the_sea
    assert np.count_nonzero(smooth) > np.count_nonzero(plain)
    assert smooth[sorted(others)].sum() < 0.05


def test_no_example_is_refused(clustering):
    with pytest.raises(ConfigError, match=r"^texts: expected at least one in a reference set"):
        histogram([], clustering, 16)


def test_an_unknown_level_is_refused(clustering):
    with pytest.raises(ConfigError, match=r"^level: expected one of 4, 16, found 5$"):
        histogram(["sea"], clustering, 5)


@pytest.mark.parametrize(
    ("nearest", "temperature", "message"),
    [
        (0, 0.1, "nearest: expected at least 1, found 0"),
        (1, 0.0, "temperature: expected 1e-06 <= t < inf, found 0.0"),
        (1, math.inf, "temperature: expected 1e-06 <= t < inf, found inf"),
        (1, math.nan, "temperature: expected 1e-06 <= t < inf, found nan"),
    ],
)
def test_smoothing_out_of_range_is_refused(nearest, temperature, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Smoothing(nearest, temperature)
