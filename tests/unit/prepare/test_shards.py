from collections import Counter
from pathlib import Path

import pytest

from megadga.errors import ConfigError, ShardError
from megadga.prepare.inputs import DomainInput, plan_domains
from megadga.prepare.shards import Recipe, build_shards
from megadga.shards.folder import open_domains
from megadga.shards.indexed import IndexedShard
from megadga.shards.manifest import read_manifest
from megadga.shards.verify import verify_domain
from tests.support.texts import made_up_texts, write_lines


@pytest.fixture
def source(tmp_path) -> DomainInput:
    path = write_lines(tmp_path / "web.jsonl", [*made_up_texts(300), ""])
    return DomainInput("web", path, None)


def read_split(folder: Path, split: str, tokenizer) -> list[str]:
    """Every document's text, in the order of the shards, after checking how it ends."""
    texts = []
    for entry in read_manifest(folder).splits[split]:
        shard = IndexedShard.open(folder / entry.file)
        for index in range(shard.num_documents):
            tokens = shard.document(index)
            assert tokens.tolist().index(tokenizer.identity.eod) == tokens.size - 1
            texts.append(tokenizer.decode(tokens))
    return texts


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_document_lands_in_one_split_shuffled_and_ended_by_eod(source, tokenizer, tmp_path):
    (built,) = build_shards([source], tokenizer, tmp_path / "out", Recipe(valid_fraction=0.2))
    train, valid = (read_split(tmp_path / "out/web", s, tokenizer) for s in ("train", "valid"))
    texts = made_up_texts(300)
    assert Counter(train + valid) == Counter(texts)
    assert 30 <= len(valid) <= 90
    assert train != [text for text in texts if text in set(train)]
    assert built.num_empty == 1
    assert built.manifest == read_manifest(tmp_path / "out/web")
    assert built.manifest.tokenizer == tokenizer.identity
    verify_domain(tmp_path / "out/web")


def test_the_bytes_do_not_depend_on_the_workers(source, tokenizer, tmp_path, monkeypatch):
    # Small chunks, so that one domain is spread over both workers.
    monkeypatch.setattr("megadga.prepare.shards.CHUNK_CHARACTERS", 500)
    built = [
        build_shards([source], tokenizer, tmp_path / f"{workers}", workers=workers)
        for workers in (1, 2)
    ]
    assert built[0] == built[1]
    assert read_files(tmp_path / "1/web") == read_files(tmp_path / "2/web")


def test_the_seed_changes_the_order_but_not_what_is_held_out(source, tokenizer, tmp_path):
    for seed in (1, 2):
        build_shards([source], tokenizer, tmp_path / f"{seed}", Recipe(seed=seed))
    for split in ("train", "valid"):
        one, two = (read_split(tmp_path / f"{seed}/web", split, tokenizer) for seed in (1, 2))
        assert sorted(one) == sorted(two)
        assert one != two


def test_a_domain_does_not_depend_on_the_others(source, tokenizer, tmp_path):
    other = DomainInput("other", source.train, None)
    build_shards([source], tokenizer, tmp_path / "alone")
    build_shards([other, source], tokenizer, tmp_path / "both")
    assert read_files(tmp_path / "alone/web") == read_files(tmp_path / "both/web")
    both = [read_split(tmp_path / "both" / n, "train", tokenizer) for n in ("web", "other")]
    assert both[0] != both[1]


def test_copies_of_a_document_are_held_out_together(tokenizer, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", made_up_texts(100) * 2)
    build_shards(plan_domains([path]), tokenizer, tmp_path / "out", Recipe(valid_fraction=0.5))
    train, valid = (read_split(tmp_path / "out/a", s, tokenizer) for s in ("train", "valid"))
    assert not set(train) & set(valid)


def test_a_pair_is_split_as_it_came(tokenizer, tmp_path):
    texts = made_up_texts(40)
    paths = [
        write_lines(tmp_path / "qa.train.jsonl", texts[:30]),
        write_lines(tmp_path / "qa.valid.jsonl.gz", texts[30:]),
    ]
    build_shards(plan_domains(paths), tokenizer, tmp_path / "out", Recipe(valid_fraction=0.5))
    assert sorted(read_split(tmp_path / "out/qa", "train", tokenizer)) == sorted(texts[:30])
    assert sorted(read_split(tmp_path / "out/qa", "valid", tokenizer)) == sorted(texts[30:])


def test_nothing_is_held_out_of_a_fraction_of_zero(source, tokenizer, tmp_path):
    (built,) = build_shards([source], tokenizer, tmp_path, Recipe(valid_fraction=0.0))
    assert built.manifest.num_documents("train") == 300
    assert built.manifest.num_documents("valid") == 0


def test_what_is_built_can_be_opened(source, tokenizer, tmp_path):
    build_shards([source], tokenizer, tmp_path / "out")
    (domain,) = open_domains(tmp_path / "out", split="train", sequence_length=32)
    assert domain.tokenizer == tokenizer.identity
    assert domain.num_sequences > 100


def test_progress_adds_up_to_the_input(source, tokenizer, tmp_path):
    steps: list[int] = []
    build_shards([source], tokenizer, tmp_path / "out", progress=steps.append)
    assert sum(steps) == source.train.stat().st_size


def test_a_domain_that_exists_is_refused_before_any_work(source, tokenizer, tmp_path):
    (tmp_path / "out/web").mkdir(parents=True)
    steps: list[int] = []
    first = DomainInput("first", source.train, None)
    with pytest.raises(ShardError, match="out/web: expected no domain of this name yet"):
        build_shards([first, source], tokenizer, tmp_path / "out", progress=steps.append)
    assert steps == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["web"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_line_leaves_nothing_of_its_domain(tokenizer, tmp_path, workers):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n{"txt": "bad"}\n')
    with pytest.raises(ConfigError, match=rf"{path}:2: text: expected a string"):
        build_shards(plan_domains([path]), tokenizer, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_an_empty_domain_is_refused(tokenizer, tmp_path, texts):
    path = write_lines(tmp_path / "a.jsonl", texts)
    with pytest.raises(ConfigError, match=f"{path}: expected at least one document to train on"):
        build_shards(plan_domains([path]), tokenizer, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_fraction": 1.0}, "valid_fraction: expected 0 <= F < 1, found 1.0"),
        ({"valid_fraction": -0.1}, "found -0.1"),
        ({"seed": -1}, "seed: expected at least 0, found -1"),
    ],
)
def test_a_recipe_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**options)
