from pathlib import Path

import pytest

from megadga.build.data import RunData, open_data
from megadga.config.loading import load_config
from megadga.errors import ConfigError, ShardError
from megadga.shards.manifest import Manifest, TokenizerIdentity, read_manifest, write_manifest
from tests.support.runs import write_run
from tests.support.shards import write_domain, write_sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=2)


def data_of(folder: Path, *overrides: str) -> RunData:
    return open_data(load_config(write_run(folder), overrides))


def names(domains) -> list[str]:
    return [domain.name for domain in domains]


def edit_manifest(folder: Path, **changes) -> None:
    manifest = read_manifest(folder)
    values = {name: getattr(manifest, name) for name in ("name", "tokenizer", "splits")}
    write_manifest(folder, Manifest(**{**values, **changes}))


def test_domains_come_from_a_folder_or_from_a_list(folder):
    assert names(data_of(folder).domains) == ["d0", "d1"]
    listed = "data.domains=[{name: b, path: domains/d1}, {name: a, path: domains/d0}]"
    assert names(data_of(folder, listed).domains) == ["b", "a"]


def test_the_specific_set_is_opened_where_the_mixture_aligns_to_it(folder):
    data = data_of(folder)
    assert data.specific is not None
    assert (data.specific.name, names(data.held_out_specific)) == ("target", ["target"])
    static = data_of(folder, "mixing={type: static, weights: uniform}")
    assert static.specific is None
    assert names(static.held_out_specific) == ["target"]


def test_without_evaluation_nothing_held_out_is_opened(folder):
    data = data_of(folder, "evaluation=null")
    assert (data.held_out, data.held_out_specific) == ((), ())


def test_a_domain_without_a_held_out_window_is_not_evaluated(folder):
    write_domain(folder / "domains" / "d2", seed=2)
    splits = read_manifest(folder / "domains" / "d2").splits
    edit_manifest(folder / "domains" / "d2", splits={"train": splits["train"], "valid": ()})
    assert names(data_of(folder).held_out) == ["d0", "d1"]


def test_the_vocabulary_is_the_tokenizers_or_larger(folder):
    assert data_of(folder).vocabulary_size == 64
    assert data_of(folder, "model.vocabulary_size=128").vocabulary_size == 128
    with pytest.raises(ConfigError) as error:
        data_of(folder, "model.vocabulary_size=63")
    assert str(error.value) == (
        "override 1: model.vocabulary_size: expected at least 64, the tokenizer's, found 63"
    )


def test_all_sets_must_have_one_tokenizer(folder):
    other = TokenizerIdentity("sentencepiece", "1" * 64, vocab_size=64, eod=2)
    edit_manifest(folder / "specific", tokenizer=other)
    with pytest.raises(ShardError, match=r"specific/manifest\.json: tokenizer: expected that of"):
        data_of(folder)


def test_a_specific_set_shorter_than_a_window_is_refused(folder):
    with pytest.raises(ShardError, match="expected at least 100001 tokens"):
        data_of(folder, "model.sequence_length=100000")


def test_the_identity_follows_the_tokens_and_not_their_place(folder):
    before = data_of(folder).identity
    (folder / "domains").rename(folder / "moved")
    assert data_of(folder, "data.domains=moved").identity == before
    (folder / "moved" / "d1").rename(folder / "old")
    write_domain(folder / "moved" / "d1", seed=9)
    after = data_of(folder, "data.domains=moved").identity
    assert after["domains"]["d0"] == before["domains"]["d0"]
    assert after["domains"]["d1"] != before["domains"]["d1"]


def test_the_identity_follows_what_the_histogram_says(folder):
    def identity(text: str):
        (folder / "h.json").write_text(text)
        return data_of(folder, "mixing={type: importance, histogram: h.json}").identity

    assert identity('{"d0": 1, "d1": 2}') == identity('{"d1": 2.0, "d0": 1}')
    assert identity('{"d0": 1, "d1": 2}') != identity('{"d0": 1, "d1": 3}')
