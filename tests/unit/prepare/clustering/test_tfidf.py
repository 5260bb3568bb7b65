import contextlib
import math
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.npz import write_arrays
from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import NUM_FEATURES, TfidfEmbedder, fit_tfidf
from tests.support.damage import damaged
from tests.support.texts import made_up_texts

FLOAT32_DIGITS = 1e-6


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> TfidfEmbedder:
    texts = ["red blue red", "blue green", "green red yellow", "我喜欢你", "if (x) { return y; }"]
    return fit_tfidf(texts, tmp_path_factory.mktemp("tfidf") / "embedder.npz", seed=3)


def cosines(embedder: TfidfEmbedder, *texts: str) -> np.ndarray:
    rows = embedder.embed(texts)
    return rows @ rows.T


def test_fitted_texts_are_as_similar_as_the_formula_says(tmp_path):
    embedder = fit_tfidf(["a a b", "a c"], tmp_path / "e.npz", seed=0)
    idf = 1 + math.log(3 / 2)  # of b and c, each in one of two texts; that of a is 1
    twice = 1 + math.log(2)
    expected = twice / (math.hypot(twice, idf) * math.hypot(1, idf))
    assert cosines(embedder, "a a b", "a c")[0, 1] == pytest.approx(expected, abs=FLOAT32_DIGITS)


def test_rows_have_norm_one_or_are_zero_where_nothing_is_known(embedder):
    rows = embedder.embed(["red and more", "", " \n", "unheard-of"])
    assert rows.dtype == np.float32
    assert rows.shape == (4, embedder.dimension)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 0, 0, 0], abs=FLOAT32_DIGITS)
    assert not rows[1:].any()


def test_no_text_has_no_row(embedder):
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_a_row_depends_on_no_other_text(tmp_path):
    texts = made_up_texts(50)
    embedder = fit_tfidf(texts, tmp_path / "e.npz", seed=0)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert alone.tobytes() == embedder.embed(texts).tobytes()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Red BLUE", "red blue"),
        ("red\n\tblue", "red blue"),
        ("blue red", "red blue"),
        ("你喜欢我", "我喜欢你"),  # written without spaces: each character counts
    ],
)
def test_case_space_and_order_do_not_matter(embedder, text, same):
    assert cosines(embedder, text, same)[0, 1] == pytest.approx(1, abs=FLOAT32_DIGITS)


def test_signs_count(embedder):
    assert cosines(embedder, "{ }", "( )")[0, 1] > 0.5
    assert cosines(embedder, "{ }", "red blue")[0, 1] < 0.1


def test_dimensions_are_those_of_different_texts(tmp_path):
    assert fit_tfidf(["a b", "c", "b a"], tmp_path / "e.npz", seed=0).dimension == 2


def test_the_same_texts_and_seed_give_the_same_file(tmp_path):
    texts = made_up_texts(200)
    for name in "ab":
        fit_tfidf(texts, tmp_path / name, seed=5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("texts", [[], [" "], ["", "\n"]])
def test_texts_without_a_word_are_refused(tmp_path, texts):
    with pytest.raises(ConfigError, match=f"^texts: expected some words .*found {len(texts)} t"):
        fit_tfidf(texts, tmp_path / "e.npz", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_pickled_it_is_a_path(embedder):
    content = pickle.dumps(embedder)
    assert len(content) < 1000
    copy = pickle.loads(content)  # noqa: S301
    assert copy.fingerprint == embedder.fingerprint
    assert pickle.loads(content) is copy  # noqa: S301


def test_unpickled_from_another_file_it_is_refused(tmp_path):
    embedder = fit_tfidf(["a b"], tmp_path / "e.npz", seed=0)
    content = pickle.dumps(embedder)
    fit_tfidf(["a c"], tmp_path / "e.npz", seed=0)
    with pytest.raises(ConfigError, match=r"e\.npz: expected the fingerprint .*has changed"):
        pickle.loads(content)  # noqa: S301


@pytest.mark.parametrize(
    ("projection", "message"),
    [
        (np.ones((5, 2)), r"expected the shape \(65536, d\), found \(5, 2\)"),
        (np.ones((NUM_FEATURES, 0)), r"found \(65536, 0\)"),
        (np.full((NUM_FEATURES, 1), np.nan), "expected finite numbers"),
    ],
)
def test_another_projection_is_refused(tmp_path, projection, message):
    write_arrays(tmp_path / "e.npz", {"projection": projection.astype("<f4")})
    with pytest.raises(ConfigError, match=message):
        TfidfEmbedder.load(tmp_path / "e.npz")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> tuple[bytes, str]:
    path = tmp_path_factory.mktemp("sound") / "e.npz"
    embedder = fit_tfidf(["a"], path, seed=0)
    return path.read_bytes(), embedder.fingerprint


@given(st.data())
def test_a_damaged_file_is_refused_or_is_the_same(tmp_path_factory, small_file, data):
    sound, fingerprint = small_file
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(data.draw(damaged(sound)))
    with contextlib.suppress(ConfigError):
        assert TfidfEmbedder.load(path).fingerprint == fingerprint


def test_without_scikit_learn_one_line_says_what_to_install(embedder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction", None)
    with pytest.raises(ConfigError, match=r"^sklearn: .* pip install 'megadga\[clusters\]'$"):
        embedder.embed(["red"])
