import pytest

from megadga.prepare.clustering.clusters import assign_inputs
from megadga.prepare.pieces import text_cutter
from tests.support.clusters import learn, texts_about


@pytest.fixture(scope="module")
def clustering(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("clustering"))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_piece_has_its_cluster_and_the_number_of_its_input(clustering, tokenizer, workers):
    paths = [clustering.folder.parent / f"{subject}.jsonl" for subject in ("sea", "court")]
    cut, classifier = text_cutter(tokenizer, 16), clustering.classifier(16)
    clusters, labels = assign_inputs(classifier, paths, cut=cut, workers=workers)
    sea, court = (cut(texts_about(subject, 60)) for subject in ("sea", "court"))
    assert labels.tolist() == [0] * len(sea) + [1] * len(court)
    assert clusters.tolist() == classifier.assign(sea + court).tolist()


def test_no_input_has_no_text(clustering):
    clusters, labels = assign_inputs(clustering.classifier(4), [])
    assert (clusters.shape, labels.shape) == ((0,), (0,))
