import json
from pathlib import Path

import numpy as np
import pytest

from megadga.data.folder import open_domains, read_folders
from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.manifest import Manifest, read_manifest, write_manifest
from megadga.data.ranking import Part
from megadga.data.selection import Kept, Tiers, select_documents
from megadga.errors import ConfigError, ShardError
from tests.support.scores import documents_of, problems_of, score, scores_of
from tests.support.shards import TOKENIZER, VOCABULARY, write_domain, write_grouped

LENGTHS = (5, 5, 5, 5)


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two domains of four documents of five tokens."""
    for number, scores in enumerate(([1.0, 4.0, 2.0, 3.0], [0.0, -1.0, -2.0, -3.0])):
        folder = tmp_path / "shards" / f"d{number}"
        score(write_domain(folder, seed=number, num_documents=4, lengths=LENGTHS), scores)
    return tmp_path / "shards"


def test_the_documents_of_the_highest_scores_are_kept_in_their_order(tmp_path, shards):
    select_documents(shards, tmp_path / "kept", "worth", Kept(0.5))
    first, second = documents_of(shards / "d0"), documents_of(shards / "d1")
    assert documents_of(tmp_path / "kept" / "d0") == [first[1], first[3]]
    assert documents_of(tmp_path / "kept" / "d1") == second[:2]
    assert scores_of(tmp_path / "kept" / "d0") == [4.0, 3.0]


def test_validation_documents_are_all_kept_as_the_same_files(tmp_path, shards):
    select_documents(shards, tmp_path / "kept", "worth", Kept(0.5))
    for name in ("valid-00000.bin", "valid-00000.idx"):
        assert (tmp_path / "kept" / "d0" / name).samefile(shards / "d0" / name)


def test_what_is_written_is_sound_and_opens_as_any_domains(tmp_path, shards):
    select_documents(shards, tmp_path / "tiers", "worth", Tiers(2), shard_tokens=6)
    for name in ("d0-tier1", "d0-tier2", "d1-tier1", "d1-tier2"):
        assert problems_of(tmp_path / "tiers" / name) == []
    opened = open_domains(tmp_path / "tiers", split="train", sequence_length=4)
    assert [domain.name for domain in opened] == ["d0-tier1", "d0-tier2", "d1-tier1", "d1-tier2"]


def test_tiers_divide_every_domain_and_the_first_one_validates(tmp_path, shards):
    select_documents(shards, tmp_path / "tiers", "worth", Tiers(2))
    documents = documents_of(shards / "d0")
    assert documents_of(tmp_path / "tiers" / "d0-tier1") == [documents[1], documents[3]]
    assert documents_of(tmp_path / "tiers" / "d0-tier2") == [documents[0], documents[2]]
    assert list(read_manifest(tmp_path / "tiers" / "d0-tier1").splits) == ["train", "valid"]
    assert list(read_manifest(tmp_path / "tiers" / "d0-tier2").splits) == ["train"]


def test_a_single_domain_becomes_a_domain_or_a_folder_of_tiers(tmp_path, shards):
    select_documents(shards / "d0", tmp_path / "one", "worth", Kept(0.5))
    assert len(documents_of(tmp_path / "one")) == 2
    select_documents(shards / "d0", tmp_path / "two", "worth", Tiers(2))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["d0-tier1", "d0-tier2"]


def test_domains_that_share_shards_still_share_them(tmp_path):
    # Documents: one, two and three.
    folder = score(write_grouped(tmp_path / "g", ["a", "b", "c"]), [5.0, 1.0, 2.0, 3.0, 9.0, 1.0])
    select_documents(folder, tmp_path / "kept", "worth", Kept(0.6))
    (kept,) = read_folders(tmp_path / "kept")
    assert kept.domains.names == ("a", "b", "c")
    documents = documents_of(folder)
    ends = kept.domains.bounds["train"].documents
    assert documents_of(tmp_path / "kept")[ends[1] : ends[2]] == [documents[2]]
    assert scores_of(tmp_path / "kept")[ends[2]] in (3.0, 9.0)
    assert kept.domains.bounds["valid"].documents.tolist() == [0, 1, 3, 6]
    assert problems_of(tmp_path / "kept") == []


def test_tiers_of_domains_that_share_shards_have_bounds_of_their_own(tmp_path):
    folder = score(write_grouped(tmp_path / "g", ["a", "b", "c"]), [5.0, 1.0, 2.0, 3.0, 9.0, 1.0])
    select_documents(folder, tmp_path / "tiers", "worth", Tiers(2))
    (tiers,) = read_folders(tmp_path / "tiers")
    assert tiers.domains.names == tuple(f"{n}-tier{t}" for n in "abc" for t in (1, 2))
    documents = documents_of(folder)
    bounds = tiers.domains.bounds["train"].documents
    assert bounds[-1] == 6
    assert documents_of(tmp_path / "tiers")[bounds[2] : bounds[3]] == [documents[2]]
    assert tiers.domains.bounds["valid"].documents.tolist() == [0, 1, 1, 3, 3, 6, 6]
    assert tiers.domains.classifier is None
    assert problems_of(tmp_path / "tiers") == []


def test_dialogues_keep_their_trained_spans(tmp_path):
    folder = write_domain(tmp_path / "c", seed=0, num_documents=4, lengths=LENGTHS, chat=True)
    score(folder, [1.0, 2.0, 3.0, 4.0])
    select_documents(folder, tmp_path / "kept", "worth", Kept(1.0))
    assert read_manifest(tmp_path / "kept").splits == read_manifest(folder).splits


def test_a_sample_depends_on_its_seed_alone(tmp_path):
    folder = score(write_domain(tmp_path / "d", seed=0, num_documents=200), np.zeros(200))
    found = []
    for place, seed in (("a", 1), ("b", 1), ("c", 2)):
        choice = Kept(0.3, temperature=1.0, seed=seed)
        select_documents(folder, tmp_path / place / "d", "worth", choice)
        found.append((tmp_path / place / "d" / "train-00000.bin").read_bytes())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("part", "better"), [("highest", 3.0), ("lowest", 0.0)])
def test_a_sample_prefers_high_scores_or_low_ones(tmp_path, part: Part, better: float):
    scores = np.repeat([0.0, 3.0], 100)
    folder = score(write_domain(tmp_path / "d", seed=0, num_documents=200), scores)
    choice = Kept(0.3, part=part, temperature=1.0)
    select_documents(folder, tmp_path / part, "worth", choice)
    kept = np.array(scores_of(tmp_path / part))
    # Odds of 20 to 1: of 60, the expected share is above 0.9.
    assert 0.8 < (kept == better).mean() < 1.0


def test_a_domain_is_not_left_without_documents(tmp_path):
    folder = score(write_domain(tmp_path / "d", seed=0, num_documents=1), [1.0])
    with pytest.raises(ShardError, match="expected documents for kept, found 1 in all, too few"):
        select_documents(folder, tmp_path / "kept", "worth", Kept(0.3))
    assert not (tmp_path / "kept").exists()


def test_damaged_tokens_are_not_copied(tmp_path, shards):
    path = shards / "d1" / "train-00000.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ShardError, match=r"d1/train-00000\.bin: bin_sha256: expected"):
        select_documents(shards, tmp_path / "kept", "worth", Kept(0.5))


def test_an_output_that_is_there_is_refused(tmp_path, shards):
    with pytest.raises(ShardError, match="no folder of this name yet"):
        select_documents(shards, shards, "worth", Kept(0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Kept(0.0), "keep: expected 0 < SHARE <= 1, found 0.0"),
        (lambda: Kept(float("nan")), "keep: expected"),
        (lambda: Kept(0.5, temperature=0.0), "temperature: expected a number above 0"),
        (lambda: Kept(0.5, "middle", temperature=1.0), "temperature: expected the highest"),
        (lambda: Kept(0.5, seed=-1), "seed: expected 0 <= N < 2"),
        (lambda: Tiers(1), "tiers: expected at least 2, found 1"),
    ],
)
def test_choices_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_ids_follow_their_documents(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    entries = []
    for number in range(2):
        with ShardWriter(folder / f"train-0000{number}", best_dtype(VOCABULARY), ids=True) as to:
            for letter in "ab":
                to.add_document(np.array([5 + number, 2]), f"{letter}{number}")
        entries.append(to.entry)
    write_manifest(folder, Manifest("d", TOKENIZER, {"train": tuple(entries)}))
    score(folder, [1.0, 4.0, 3.0, 2.0])
    select_documents(folder, tmp_path / "kept", "worth", Kept(0.5))
    lines = (tmp_path / "kept" / "train-00000.ids").read_text().splitlines()
    assert list(map(json.loads, lines)) == ["b0", "a1"]
