from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megadga.data.append import append_shards
from megadga.data.files import Problems
from megadga.data.manifest import ScoresEntry, read_manifest
from megadga.data.merge import merge_domains, read_merge_sources
from megadga.data.scores import (
    read_scores,
    remove_scores,
    scan_scores,
    scores_path,
    write_scores,
)
from megadga.errors import ShardError
from tests.support.scores import problems_of, score, scores_of
from tests.support.shards import write_domain


@pytest.fixture
def domain(tmp_path) -> Path:
    return score(write_domain(tmp_path / "d", seed=0, num_documents=3), [0.5, -1.0, 2.0])


def test_scores_are_little_endian_floats_in_the_order_of_the_documents(domain):
    content = (domain / "train-00000.worth.scores").read_bytes()
    assert content.hex() == "0000003f000080bf00000040"
    assert scores_of(domain) == [0.5, -1.0, 2.0]
    assert problems_of(domain) == []


def test_the_manifest_says_by_which_scorer(domain):
    (entry,) = read_manifest(domain).splits["train"]
    assert entry.scores["worth"].scorer == "by hand"
    assert read_manifest(domain).splits["valid"][0].scores == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (np.array([0.5, -1, 3], "<f4").tobytes(), "scores.worth.sha256: expected"),
        (b"\0" * 8, "expected 12 bytes, 4 a document, found 8"),
        (np.array([0.5, np.nan, 2], "<f4").tobytes(), "document 1: expected a finite score"),
        (None, "expected documents' scores, found No such file"),
    ],
)
def test_damaged_scores_are_found_by_verify_and_not_read(domain, content, problem):
    path = scores_path(domain / "train-00000", "worth")
    path.unlink() if content is None else path.write_bytes(content)
    assert any(line.startswith(str(path)) and problem in line for line in problems_of(domain))
    with pytest.raises(ShardError, match=r"worth\.scores"):
        scores_of(domain)


def test_verify_finds_scores_that_no_manifest_names(domain):
    stray = scores_path(domain / "train-00000", "old")
    stray.write_bytes(b"\0" * 12)
    assert problems_of(domain) == [
        f"{stray}: expected only files named in the manifest, found another"
    ]


def test_a_name_that_is_no_part_of_a_file_name_is_refused(domain):
    text = (domain / "manifest.json").read_text().replace('"worth"', '"../worth"')
    (domain / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match="name of letters, digits, _ and -"):
        read_manifest(domain)


def test_scores_that_documents_do_not_have_are_refused_by_name(domain):
    with pytest.raises(ShardError, match=r"train-00000: scores: expected other, found worth"):
        scores_of(domain, "other")


def test_only_finite_scores_of_all_documents_can_be_written(domain):
    entries = read_manifest(domain).splits["train"]
    with pytest.raises(ValueError, match=r"shape \(3,\), found \(2,\)"):
        write_scores(domain, entries, "x", "y", np.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        write_scores(domain, entries, "x", "y", np.array([0.0, 1e39, 0.0]))  # beyond float32


def test_removed_scores_leave_no_file_and_no_entry(domain):
    score(domain, [1, 2, 3], name="other")
    remove_scores(domain, read_manifest(domain), "worth")
    assert list(read_manifest(domain).splits["train"][0].scores) == ["other"]
    assert problems_of(domain) == []


def test_merged_domains_keep_the_scores_that_both_have(tmp_path, domain):
    other = score(write_domain(tmp_path / "e", seed=1, num_documents=2), [7.0, 8.0])
    merge_domains(read_merge_sources([domain, other]), tmp_path / "merged", shard_tokens=30)
    assert scores_of(tmp_path / "merged") == [0.5, -1.0, 2.0, 7.0, 8.0]
    assert len(read_manifest(tmp_path / "merged").splits["train"]) > 1
    assert problems_of(tmp_path / "merged") == []


@pytest.mark.parametrize("scorer", [None, "another"])
def test_domains_without_common_scores_are_merged_when_scores_are_dropped(
    tmp_path, domain, scorer
):
    other = write_domain(tmp_path / "e", seed=1, num_documents=2)
    if scorer is not None:
        score(other, [7.0, 8.0], scorer=scorer)
    found = "none" if scorer is None else "'another'"
    sources = read_merge_sources([domain, other])
    with pytest.raises(ShardError, match=f"scores.worth: expected 'by hand', .*, found {found}"):
        merge_domains(sources, tmp_path / "merged")
    merge_domains(sources, tmp_path / "merged", drop_scores=True)
    assert read_manifest(tmp_path / "merged").splits["train"][0].scores == {}
    assert problems_of(tmp_path / "merged") == []


def test_appended_shards_keep_their_scores(tmp_path, domain):
    other = score(write_domain(tmp_path / "e", seed=1, num_documents=2), [7.0, 8.0])
    append_shards(domain, other)
    assert scores_of(domain) == [0.5, -1.0, 2.0, 7.0, 8.0]
    assert problems_of(domain) == []


def test_shards_without_the_domains_scores_are_appended_when_scores_are_dropped(tmp_path, domain):
    other = write_domain(tmp_path / "e", seed=1, num_documents=2)
    with pytest.raises(ShardError, match=r"scores\.worth: .*, found none: drop"):
        append_shards(domain, other)
    assert scores_of(domain) == [0.5, -1.0, 2.0]
    append_shards(domain, other, drop_scores=True)
    assert all(entry.scores == {} for entry in read_manifest(domain).splits["train"])
    assert problems_of(domain) == []


def test_scores_by_two_scorers_are_not_read_as_one_column(tmp_path, domain):
    other = score(write_domain(tmp_path / "e", seed=1, num_documents=2), [7.0, 8.0], scorer="b")
    manifest = read_manifest(domain)
    (entry,) = manifest.splits["train"]
    (foreign,) = read_manifest(other).splits["train"]
    with pytest.raises(ShardError, match="scorer: expected 'by hand', as train-00000 has it"):
        read_scores(domain, [entry, replace(foreign, file="train-00001")], "worth")


def test_a_scan_of_good_scores_is_their_entry(domain):
    (entry,) = read_manifest(domain).splits["train"]
    problems = Problems()
    path = scores_path(domain / entry.file, "worth")
    assert scan_scores(path, ScoresEntry("by hand", ""), 3, problems) == entry.scores["worth"]
    assert problems.lines == ()
