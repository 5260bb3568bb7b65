from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from megadga.data.append import append_shards
from megadga.data.manifest import read_manifest
from megadga.errors import ConfigError, ShardError
from megadga.prepare.scoring import shards as scoring
from megadga.prepare.scoring.scorers import joined
from megadga.prepare.scoring.shards import score_documents
from megadga.prepare.scoring.work import ScoringFolder
from megadga.prepare.workers import Workers, open_processes
from tests.support.scores import documents_of, problems_of, scores_of
from tests.support.shards import write_domain, write_grouped


@dataclass(frozen=True)
class Sums:
    """Measures the sum of a document's ids, and how many it was given with it."""

    stops_after: int | None = None
    calls: list[int] = field(default_factory=list[int])

    def __call__(self, documents):
        if self.stops_after is not None and len(self.calls) == self.stops_after:
            raise KeyboardInterrupt
        self.calls.append(len(documents))
        return np.array([[tokens.sum(), len(documents)] for tokens in documents], dtype=float)


@dataclass(frozen=True)
class SumScorer:
    """Scores documents by the sum of their ids in every pass, times a factor."""

    passes: Sequence[Callable] = (Sums(),)
    description: str = "sums"
    relative: bool = False
    factor: float = 1.0

    def finish(self, measured):
        return self.factor * np.sum([joined(each)[:, 0] for each in measured], axis=0)


def expected_of(folder: Path) -> list[float]:
    return [float(sum(document)) for document in documents_of(folder)]


@pytest.fixture
def shards(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(scoring, "_TASK_TOKENS", 100)
    for number in range(3):
        write_domain(tmp_path / "shards" / f"d{number}", seed=number)
    return tmp_path / "shards"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_training_document_gets_its_score(shards):
    found = score_documents(shards, "sums", SumScorer(), Workers())
    assert found is not None
    assert found.folders == {"d0": 40, "d1": 40, "d2": 40}
    for number in range(3):
        folder = shards / f"d{number}"
        assert scores_of(folder, "sums") == expected_of(folder)
        assert problems_of(folder) == []
    assert [path.name for path in shards.iterdir() if path.name.startswith(".")] == []


def test_tasks_are_some_tokens_of_one_folder_each(shards):
    measure = Sums()
    score_documents(shards, "sums", SumScorer((measure,)), Workers())
    assert sum(measure.calls) == 120
    assert len(measure.calls) > 12
    # A task ends with the document that its 100 tokens end in; documents have up to 30.
    assert max(measure.calls) <= 100 / 6 + 1


def test_the_passes_run_one_after_the_other(shards):
    first, second = Sums(), Sums()
    score_documents(shards, "sums", SumScorer((first, second)), Workers())
    assert first.calls == second.calls
    assert scores_of(shards / "d0", "sums") == [2 * each for each in expected_of(shards / "d0")]


@pytest.mark.parametrize("after", [0, 3, 11])
def test_an_interrupted_scoring_goes_on_where_it_was(shards, tmp_path, after):
    with pytest.raises(KeyboardInterrupt):
        score_documents(shards, "sums", SumScorer((Sums(after),)), Workers())
    assert "sums" not in read_manifest(shards / "d0").splits["train"][0].scores
    rest = Sums()
    score_documents(shards, "sums", SumScorer((rest,)), Workers())
    whole = Sums()
    score_documents(shards, "whole", SumScorer((whole,)), Workers())
    assert len(rest.calls) == len(whole.calls) - after
    assert scores_of(shards / "d2", "sums") == scores_of(shards / "d2", "whole")


def test_the_files_are_the_same_with_two_processes(shards, tmp_path):
    other = tmp_path / "again"
    for number in range(3):
        write_domain(other / f"d{number}", seed=number)
    score_documents(shards, "sums", SumScorer(), Workers())
    with open_processes(2) as pool:
        score_documents(other, "sums", SumScorer(), pool)
    assert files_of(shards) == files_of(other)


def test_scoring_again_finds_nothing_to_do(shards):
    score_documents(shards, "sums", SumScorer(), Workers())
    before = files_of(shards)
    assert score_documents(shards, "sums", SumScorer((Sums(0),)), Workers()) is None
    assert files_of(shards) == before


def test_scores_by_another_scorer_are_replaced_only_when_asked(shards):
    score_documents(shards, "sums", SumScorer(), Workers())
    other = SumScorer(description="other", factor=3.0)
    with pytest.raises(ShardError, match=r"scorer: expected 'other', found 'sums': choose"):
        score_documents(shards, "sums", other, Workers())
    score_documents(shards, "sums", other, Workers(), replace_scores=True)
    assert scores_of(shards / "d1", "sums") == [3 * each for each in expected_of(shards / "d1")]
    assert problems_of(shards / "d1") == []


def test_an_interrupted_scoring_by_another_scorer_is_not_continued(shards):
    with pytest.raises(KeyboardInterrupt):
        score_documents(shards, "sums", SumScorer((Sums(2),)), Workers())
    with pytest.raises(ConfigError, match=r"plan.json: scorer: expected sums, found other"):
        score_documents(shards, "sums", SumScorer(description="other"), Workers())


def test_one_scoring_of_a_name_runs_at_a_time(shards):
    work = ScoringFolder(shards / ".sums.scores")
    with work.claim({}), pytest.raises(ConfigError, match="no other scoring in progress"):
        score_documents(shards, "sums", SumScorer(), Workers())


def test_relative_scores_name_the_shards_that_they_are_among(shards):
    score_documents(shards, "sums", SumScorer(relative=True), Workers())
    scorers = {read_manifest(shards / f"d{n}").splits["train"][0].scores["sums"].scorer
               for n in range(3)}  # fmt: skip
    (scorer,) = scorers
    assert scorer.startswith("sums, among shards ")
    with pytest.raises(ShardError, match="scorer: expected 'sums, among"):
        score_documents(shards / "d0", "sums", SumScorer(relative=True), Workers())


def test_a_domain_that_has_grown_is_scored_again(shards, tmp_path):
    score_documents(shards / "d0", "sums", SumScorer(), Workers())
    append_shards(shards / "d0", write_domain(tmp_path / "more", seed=9), drop_scores=True)
    found = score_documents(shards / "d0", "sums", SumScorer(), Workers())
    assert found is not None
    assert found.folders == {"d0": 80}
    assert scores_of(shards / "d0", "sums") == expected_of(shards / "d0")


def test_domains_that_share_shards_are_scored_together(tmp_path):
    folder = write_grouped(tmp_path / "g", ["a", "b"])
    score_documents(folder, "sums", SumScorer(), Workers())
    assert scores_of(folder, "sums") == expected_of(folder)


def test_a_score_that_is_not_finite_is_refused_by_its_document(shards):
    with pytest.raises(ConfigError, match=r"d0: train document 0: expected a finite score"):
        score_documents(shards, "sums", SumScorer(factor=np.inf), Workers())


def test_a_measurement_that_lost_its_content_is_done_again(shards):
    with pytest.raises(KeyboardInterrupt):
        score_documents(shards, "sums", SumScorer((Sums(5),)), Workers())
    for path in (shards / ".sums.scores").glob("*.npy"):
        path.write_bytes(b"")
    score_documents(shards, "sums", SumScorer(), Workers())
    assert scores_of(shards / "d0", "sums") == expected_of(shards / "d0")
