"""Labels of real shards: of texts on planted subjects, by file and by cluster."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.labels import Labels, read_labels
from megadga.data.manifest import Bounds, Grouping, Manifest, write_grouping, write_manifest
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.labelling import shards
from megadga.prepare.labelling.shards import Labelling, label_shards
from megadga.prepare.training import train_tokenizer
from megadga.prepare.workers import Workers
from tests.support.clusters import SUBJECTS, learn, texts_about
from tests.support.streams import IDENTITY
from tests.support.texts import made_up_texts
from tests.support.tools import assert_refused, run_data


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Texts on four subjects as domains, and as the clusters of these texts."""
    work = tmp_path_factory.mktemp("work")
    learn(work, seed=1)  # with which the four clusters of the first level are the subjects
    texts = [text for subject in SUBJECTS for text in texts_about(subject, 20)]
    train_tokenizer(texts + made_up_texts(200), vocab_size=400, prefix=work / "small")
    tokenizer = ("--tokenizer", work / "small.model", "--workers", 1)
    inputs = [work / f"{subject}.jsonl" for subject in SUBJECTS]
    run_data("build", "--input", *inputs, *tokenizer, "--output", work / "generic")
    clusters = ("--clusters", work / "clusters", "--output", work / "clustered")
    run_data("build", "--input", *inputs, *tokenizer, *clusters)
    return work


def labels_of(folder: Path) -> Labels:
    labels = read_labels(folder)
    assert labels is not None
    return labels


def words_of(subject: str) -> set[str]:
    return {word for word in SUBJECTS[subject].split() if word.isalpha()}


def test_domains_have_the_words_that_were_planted(work):
    done = run_data("label", work / "generic", "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    *table, last = done.stdout.splitlines()
    assert last == f"{work / 'generic' / 'labels.json'}: 4 of 4 domains labelled"
    assert [line.split()[0] for line in table] == sorted(SUBJECTS)
    for subject, label in labels_of(work / "generic").domains.items():
        assert set(label.words) == words_of(subject)
        assert len(label.examples) == 3
        for example in label.examples:
            assert words_of(subject) & set(example.split())


def test_clusters_have_words_examples_and_parents(work):
    done = run_data("label", work / "clustered", "--clusters", work / "clusters", "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    labels = labels_of(work / "clustered")
    found = {frozenset(parent.words) for parent in labels.parents.values()}
    assert found == {frozenset(words_of(subject)) for subject in SUBJECTS}
    for number, (name, parent) in enumerate(labels.parents.items()):
        assert name == f"c{number} of 4"
        assert parent.domains == tuple(f"c{4 * number + child:02d}" for child in range(4))
        for child in parent.domains:
            if child in labels.domains:  # a cluster may be empty
                assert set(labels.domains[child].words) <= set(parent.words)


def test_examples_of_a_cluster_are_the_documents_nearest_to_its_centroid(work):
    run_data("label", work / "clustered", "--clusters", work / "clusters", "--workers", 1)
    clustering = Clustering.load(work / "clusters")
    for name, label in labels_of(work / "clustered").domains.items():
        points = clustering.embedder.embed(label.examples)
        similarities = points @ clustering.tree.centroids(16)[int(name[1:])]
        assert similarities.tolist() == sorted(similarities.tolist(), reverse=True)


def test_two_workers_write_the_same_bytes(work):
    written: list[bytes] = []
    for workers in (1, 2):
        done = run_data("label", work / "generic", "--workers", workers)
        assert (done.returncode, done.stderr) == (0, "")
        written.append((work / "generic" / "labels.json").read_bytes())
    assert written[0] == written[1]


def test_shards_of_no_clustering_are_refused(work):
    done = run_data("label", work / "generic", "--clusters", work / "clusters", "--workers", 1)
    assert_refused(done, "grouping.classifier: expected clusters of")


def test_a_clustering_is_labelled_by_the_shards_of_its_clusters(work):
    done = run_data("label", work / "clusters")
    assert_refused(done, "found a clustering: megadga data label SHARDS --clusters")


def test_one_domain_alone_cannot_be_told_from_others(work, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "sea").symlink_to(work / "generic" / "sea")
    done = run_data("label", tmp_path / "one", "--tokenizer", work / "small.model")
    assert_refused(done, "expected at least two domains, to tell them apart, found 1")


def test_shards_without_their_tokenizer_need_it(work, tmp_path):
    (tmp_path / "moved").mkdir()
    for subject in SUBJECTS:
        (tmp_path / "moved" / subject).symlink_to(work / "generic" / subject)
    assert_refused(run_data("label", tmp_path / "moved"), "--tokenizer: expected the file that")


def test_an_example_of_a_long_document_is_a_part_of_it(work, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "DOCUMENT_TOKENS", 32)
    (tmp_path / "long.txt").write_text(" ".join(["wave"] * 400))
    (tmp_path / "short.txt").write_text("judge")
    run_data(
        "build", "--input", tmp_path / "long.txt", tmp_path / "short.txt", "--tokenizer",
        work / "small.model", "--output", tmp_path / "shards", "--workers", 1,
    )  # fmt: skip
    run_data("label", tmp_path / "shards", "--workers", 1)
    first, second = labels_of(tmp_path / "shards").domains["long"].examples[:2]
    assert first.startswith("wave wave")
    assert second.startswith("… wave")


class NumberTokenizer:
    """Spells every id as a word; the least that labelling asks of a tokenizer."""

    def decode(self, tokens) -> str:
        return " ".join(f"w{token}" for token in tokens.tolist())


def test_thousands_of_domains_are_labelled_in_seconds(tmp_path):
    """4,096 domains of 64 tokens, each with a word of its own; about 3 s on a busy machine."""
    number, folder = 4096, tmp_path / "many"
    folder.mkdir()
    identity = replace(IDENTITY, vocab_size=number + 100)
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "train-00000", best_dtype(identity.vocab_size)) as writer:
        for own in range(number):
            common = rng.integers(10, 60, size=56)
            writer.add_document(np.concatenate((np.full(7, own + 100), common, [identity.eod])))
    bounds = np.arange(number + 1)
    names = tuple(f"c{own:04d}" for own in range(number))
    grouping = Grouping(names, {"train": Bounds(64 * bounds, bounds)})
    manifest = Manifest("many", identity, {"train": (writer.entry,)})
    write_manifest(folder, replace(manifest, grouping=write_grouping(folder, grouping)))
    began = time.process_time()
    labels = label_shards(Labelling(folder, NumberTokenizer(), sample=64), Workers())
    assert time.process_time() - began < 30
    assert [label.words[0] for label in labels.domains.values()] == [
        f"w{own + 100}" for own in range(number)
    ]
