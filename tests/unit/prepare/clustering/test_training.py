from pathlib import Path

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import EmbeddingKind
from megadga.prepare.clustering.training import ClusteringRecipe, train_clusters
from megadga.prepare.clustering.tree import POINTS_PER_CENTROID
from megadga.prepare.pieces import text_cutter
from tests.support.clusters import SUBJECTS, texts_about, write_subjects
from tests.support.texts import write_lines


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> tuple[Path, ...]:
    return write_subjects(tmp_path_factory.mktemp("subjects"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("piece_tokens", [None, 8])
def test_the_same_input_and_seed_give_the_same_bytes_for_any_number_of_workers(
    subjects, tokenizer, tmp_path, piece_tokens
):
    cut = text_cutter(tokenizer if piece_tokens else None, piece_tokens)
    recipe = ClusteringRecipe((4, 16), cut, seed=3)
    for workers in (1, 2):
        train_clusters(subjects, tmp_path / str(workers), recipe, workers=workers)
    train_clusters(subjects, tmp_path / "again", recipe)
    once = contents(tmp_path / "1")
    assert sorted(once) == ["centroids.npz", "clusters.json", "embedder.npz"]
    assert contents(tmp_path / "2") == contents(tmp_path / "again") == once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "again"]


def test_another_seed_gives_other_clusters(subjects, tmp_path):
    one, other = (
        train_clusters(subjects, tmp_path / str(seed), ClusteringRecipe((16,), seed=seed))
        for seed in (0, 1)
    )
    assert one.fingerprint != other.fingerprint


def test_pieces_are_clustered_rather_than_documents(tokenizer, tmp_path):
    """One document on all subjects has a cluster for each if it is cut, and one if it is whole."""
    text = "".join(texts_about(subject, 1)[0] * 9 for subject in SUBJECTS)
    path = write_lines(tmp_path / "all.jsonl", [text])
    for name, cut in (
        ("whole", text_cutter(None, None)),
        ("cut", text_cutter(tokenizer, 64)),
    ):
        clustering = train_clusters([path], tmp_path / name, ClusteringRecipe((4,), cut))
        num_occupied = int(clustering.tree.centroids(4).any(axis=1).sum())
        assert num_occupied == (1 if name == "whole" else 4)


class FirstLetter:
    """An embedding of one dimension a letter, for texts that begin with a small one."""

    kind: EmbeddingKind = "sentence-transformers"
    path = Path("nowhere")
    fingerprint = "0"
    dimension = 26

    def __init__(self) -> None:
        self.num_texts = 0

    def embed(self, texts):
        self.num_texts += len(texts)
        rows = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            if "a" <= text[0] <= "z":
                row[ord(text[0]) - ord("a")] = 1
        return rows


def test_a_large_input_is_thinned_out_to_what_k_means_looks_at(tmp_path):
    count = 40 * POINTS_PER_CENTROID
    path = write_lines(tmp_path / "many.jsonl", ["abcde"[n % 5] for n in range(count)])
    embedder = FirstLetter()
    with pytest.raises(ConfigError, match=r"^nowhere: "):  # a fake is not loaded again
        train_clusters([path], tmp_path / "out", ClusteringRecipe((2, 4)), embedder=embedder)
    wanted = 4 * POINTS_PER_CENTROID
    assert abs(embedder.num_texts - wanted) < 5 * np.sqrt(wanted)


def test_progress_shows_every_stage_to_its_end(subjects, tmp_path):
    totals: dict[str, int] = {}
    done: dict[str, int] = {}

    def stages(stage, total, unit):
        totals[stage], done[stage] = total, 0
        return lambda number: done.update({stage: done[stage] + number})

    train_clusters(subjects, tmp_path / "out", ClusteringRecipe((4, 16)), stages=stages)
    size = sum(path.stat().st_size for path in subjects)
    assert totals == {"sampling": size, "embedding": size, "clustering": 5}
    assert done == totals


def test_a_failed_attempt_leaves_nothing_and_an_interrupted_one_is_cleared_away(tmp_path):
    path = write_lines(tmp_path / "empty.jsonl", ["", ""])
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "points.f32").write_bytes(b"stale")
    with pytest.raises(ConfigError, match=r"^texts: expected some to train clusters on, found"):
        train_clusters([path], tmp_path / "out", ClusteringRecipe((2,)))
    assert list(tmp_path.iterdir()) == [path]


def test_texts_without_known_features_are_refused(tmp_path):
    path = write_lines(tmp_path / "odd.jsonl", ["1", "2"])
    with pytest.raises(ConfigError, match=r"^texts: expected some with features known"):
        train_clusters(
            [path], tmp_path / "out", ClusteringRecipe((2,)), embedder=FirstLetter()
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_exists_is_not_overwritten(subjects, tmp_path):
    with pytest.raises(ConfigError, match=f"^{tmp_path}: expected no folder of this name yet"):
        train_clusters(subjects, tmp_path, ClusteringRecipe((2,)))


def test_a_folder_that_cannot_be_made_is_refused(subjects, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out: expected to write it, found "):
        train_clusters(subjects, tmp_path / "file" / "out", ClusteringRecipe((2,)))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"levels": (4, 6)}, "levels: expected a multiple of 4 that is larger, found 6"),
        ({"levels": (4,), "seed": -1}, r"seed: expected 0 <= N < 2\^32, found -1"),
        ({"levels": (4,), "seed": 1 << 32}, r"seed: expected 0 <= N < 2\^32, found 4294967296"),
    ],
)
def test_values_out_of_range_are_refused(recipe, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        ClusteringRecipe(**recipe)
