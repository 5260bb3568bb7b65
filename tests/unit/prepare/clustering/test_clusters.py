import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.npz import write_arrays
from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.training import purity
from tests.support.clusters import SUBJECTS, learn, texts_about
from tests.support.damage import damaged

FILES = ("clusters.json", "centroids.npz", "embedder.npz")


@pytest.fixture(scope="module")
def clustering(tmp_path_factory) -> Clustering:
    return learn(tmp_path_factory.mktemp("clustering"))


@pytest.fixture
def folder(clustering, tmp_path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(clustering.folder, tmp_path / "copy")


def test_clusters_keep_subjects_apart(clustering):
    texts = [text for subject in SUBJECTS for text in texts_about(subject, 20, seed=1)]
    clusters = clustering.classifier(16).assign(texts)
    assert purity(clusters, np.repeat(np.arange(4), 20)) == 1.0


def test_names_are_numbers_of_one_width(clustering):
    assert list(clustering.classifier(4).names) == ["c0", "c1", "c2", "c3"]
    assert list(clustering.classifier(16).names)[8:11] == ["c08", "c09", "c10"]


def test_a_cluster_lies_in_one_of_the_coarser_level(clustering):
    texts = [text for subject in SUBJECTS for text in texts_about(subject, 20, seed=1)]
    coarse, fine = (clustering.classifier(level).assign(texts) for level in (4, 16))
    assert (fine // 4).tolist() == coarse.tolist()
    assert len(set(fine.tolist())) > 4


def test_a_text_of_nothing_known_goes_to_the_first_cluster(clustering):
    assert clustering.classifier(16).assign(["", "unheard-of"]).tolist() == [0, 0]


def test_no_text_has_no_cluster(clustering):
    assert clustering.classifier(16).assign([]).shape == (0,)


def test_a_cluster_depends_on_no_other_text(clustering):
    classifier = clustering.classifier(16)
    texts = [text for subject in SUBJECTS for text in texts_about(subject, 9, seed=1)]
    alone = [int(classifier.assign([text])[0]) for text in texts]
    assert alone == classifier.assign(texts).tolist()


def test_fingerprints_tell_levels_apart(clustering):
    assert clustering.classifier(4).fingerprint != clustering.classifier(16).fingerprint
    again = Clustering.load(clustering.folder)
    assert again.fingerprint == clustering.fingerprint
    assert again.classifier(4).fingerprint == clustering.classifier(4).fingerprint


def test_pickled_a_classifier_is_a_path(clustering):
    content = pickle.dumps(clustering.classifier(16))
    assert len(content) < 1000
    copy = pickle.loads(content)  # noqa: S301
    assert pickle.loads(content) is copy  # noqa: S301
    assert copy.fingerprint == clustering.classifier(16).fingerprint
    texts = texts_about("sea", 9)
    assert copy.assign(texts).tolist() == clustering.classifier(16).assign(texts).tolist()


def test_unpickled_from_another_clustering_it_is_refused(clustering, tmp_path):
    one = learn(tmp_path)
    content = pickle.dumps(one.classifier(4))
    shutil.rmtree(one.folder)
    shutil.copytree(learn_another(tmp_path).folder, one.folder)
    with pytest.raises(ConfigError, match=r"clusters: expected the fingerprint .*has changed"):
        pickle.loads(content)  # noqa: S301


def learn_another(tmp_path: Path) -> Clustering:
    (tmp_path / "other").mkdir()
    return learn(tmp_path / "other", seed=1)


def test_an_unknown_level_is_refused(clustering):
    with pytest.raises(ConfigError, match=r"^level: expected one of 4, 16, found 8$"):
        clustering.classifier(8)


def test_a_place_for_a_model_is_refused_where_there_is_none(clustering, tmp_path):
    with pytest.raises(ConfigError, match=f"^{tmp_path}: expected no embedder, since "):
        Clustering.load(clustering.folder, embedder_path=tmp_path)


def test_a_model_that_is_not_there_any_more_is_refused(folder, tmp_path):
    rewrite(folder, embedder="sentence-transformers", embedder_path="/no/such/model")
    with pytest.raises(ConfigError, match=r"^/no/such/model: expected the directory of a sent"):
        Clustering.load(folder)
    with pytest.raises(ConfigError, match=f"^{tmp_path}: expected the directory of a sent"):
        Clustering.load(folder, embedder_path=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedder_fingerprint": "0"}, "embedder.npz: expected the embedding 0 that .*, found "),
        ({"fingerprint": "0"}, "copy: expected the fingerprint 0, found "),
        ({"levels": [4, 8]}, r"centroids.npz: expected the shape \(12, \d+\), found \(20, "),
        (
            {"levels": [2, 18]},
            "centroids.npz: centroids: expected centres under every|expected th",
        ),
    ],
)
def test_a_record_that_contradicts_the_files_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ConfigError, match=message):
        Clustering.load(folder)


def test_centres_that_are_no_numbers_are_refused(folder, clustering):
    centroids = np.full((20, clustering.tree.dimension), np.inf, dtype="<f4")
    write_arrays(folder / "centroids.npz", {"centroids": centroids})
    with pytest.raises(ConfigError, match=r"centroids\.npz: expected finite numbers"):
        Clustering.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: expected .*No such file"):
        Clustering.load(folder)


@given(st.sampled_from(("clusters.json", "centroids.npz")), st.data())
def test_damage_is_refused_or_changes_nothing(tmp_path_factory, clustering, name, data):
    copy = tmp_path_factory.getbasetemp() / "damaged"
    shutil.copytree(clustering.folder, copy, dirs_exist_ok=True)
    (copy / name).write_bytes(data.draw(damaged((copy / name).read_bytes())))
    try:
        found = Clustering.load(copy)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert found.fingerprint == clustering.fingerprint


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "clusters.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
