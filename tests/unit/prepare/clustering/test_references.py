import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.mixers.basis import read_basis
from megadga.mixers.importance import read_histogram
from megadga.prepare.clustering.references import (
    Smoothing,
    check_output,
    describe_rows,
    histogram,
    measure_references,
    parse_references,
    write_shares,
)
from megadga.prepare.pieces import text_cutter
from tests.support.clusters import learn, texts_about
from tests.support.texts import write_lines


@pytest.fixture(scope="module")
def clustering(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("clustering"))


@pytest.fixture
def references(tmp_path):
    return {
        subject: (write_lines(tmp_path / f"{subject}.jsonl", [*texts_about(subject, 5), ""]),)
        for subject in ("sea", "court")
    }


def test_sets_are_named_and_may_have_several_patterns(tmp_path):
    for name in ("a1", "a2", "b"):
        write_lines(tmp_path / f"{name}.jsonl", ["x"])
    found = parse_references(
        [f"two={tmp_path}/b*", f"one={tmp_path}/a*", f"two={tmp_path}/a1.jsonl"]
    )
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        "two": ["a1.jsonl", "b.jsonl"],
        "one": ["a1.jsonl", "a2.jsonl"],
    }


@pytest.mark.parametrize("argument", ["mine.jsonl", "=mine.jsonl", "name="])
def test_a_set_without_name_or_files_is_refused(argument):
    with pytest.raises(ConfigError, match=f"^{argument}: expected NAME=GLOB"):
        parse_references([argument])


@pytest.mark.parametrize("name", ["two\nlines", "caf\udce9"])
def test_a_set_whose_name_cannot_be_printed_is_refused_before_any_work(tmp_path, name):
    path = write_lines(tmp_path / "a.jsonl", ["x"])
    with pytest.raises(ConfigError, match="expected a name of printable characters"):
        parse_references([f"{name}={path}"])


@pytest.mark.parametrize("smoothing", [None, Smoothing(3, 0.2)])
def test_every_set_is_a_row(clustering, references, smoothing):
    basis = measure_references(references, clustering, 16, smoothing=smoothing)
    classifier = clustering.classifier(16)
    assert basis.names == ("sea", "court")
    assert basis.domains == tuple(classifier.names)
    assert basis.clustering == classifier.fingerprint
    for index, subject in enumerate(basis.names):
        expected = histogram(texts_about(subject, 5), clustering, 16, smoothing=smoothing)
        assert basis.row(index).tolist() == expected.tolist()


def test_documents_are_cut_as_asked_for(clustering, references, tokenizer):
    basis = measure_references(references, clustering, 16, cut=text_cutter(tokenizer, 8))
    pieces = text_cutter(tokenizer, 8)(texts_about("sea", 5))
    assert basis.row(0).tolist() == histogram(pieces, clustering, 16).tolist()


def test_progress_is_in_bytes(clustering, references):
    stages: list[tuple[str, int]] = []
    done: list[int] = []

    def begin(stage, total, unit):
        stages.append((stage, total))
        return done.append

    measure_references(references, clustering, 4, stages=begin)
    size = sum(path.stat().st_size for (path,) in references.values())
    assert (stages, sum(done)) == ([("measuring", size)], size)


def test_a_set_without_text_is_refused_by_its_name(clustering, tmp_path):
    path = write_lines(tmp_path / "empty.jsonl", [""])
    with pytest.raises(ConfigError, match=r"^nothing: texts: expected at least one"):
        measure_references({"nothing": (path,)}, clustering, 4)


def test_one_set_is_written_as_shares_by_domain(clustering, references, tmp_path):
    basis = measure_references({"sea": references["sea"]}, clustering, 16)
    write_shares(tmp_path / "sea.json", basis)
    shares = read_histogram(tmp_path / "sea.json")
    assert list(shares) == list(basis.domains)
    assert list(shares.values()) == basis.row(0).tolist()


def test_several_sets_are_written_as_a_basis(clustering, references, tmp_path):
    basis = measure_references(references, clustering, 16)
    write_shares(tmp_path / "basis.npz", basis)
    assert read_basis(tmp_path / "basis.npz").data.tolist() == basis.data.tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("basis.csv", r"basis\.csv: expected a name that ends in \.json or \.npz"),
        ("basis.json", r"basis\.json: expected one set for a \.json, found 2"),
    ],
)
def test_a_name_that_two_sets_cannot_be_written_to_is_refused(
    clustering, references, tmp_path, name, message
):
    basis = measure_references(references, clustering, 4)
    with pytest.raises(ConfigError, match=message):
        check_output(tmp_path / name, 2)
    with pytest.raises(ConfigError, match=message):
        write_shares(tmp_path / name, basis)
    assert not (tmp_path / name).exists()


def test_a_row_is_described_in_a_line(clustering, references):
    basis = measure_references(references, clustering, 4)
    first, second = describe_rows(basis)
    largest = int(np.argmax(basis.row(0)))
    assert first == f"sea: in 1 of 4 clusters, most in c{largest} (1.000)"
    assert second.startswith("court: in ")
