import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.config.run import differences
from megadga.data.domain import Domain
from megadga.data.examples import Examples
from megadga.data.manifest import Manifest, TokenizerIdentity, read_manifest, write_manifest
from megadga.data.targets import spans_path
from megadga.errors import ConfigError, ShardError
from megadga.train.data import RunData, open_data
from tests.support.opens import watched_opens
from tests.support.runs import write_run
from tests.support.shards import write_domain, write_grouped, write_sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=2)


def data_of(folder: Path, *overrides: str) -> RunData:
    return open_data(load_config(write_run(folder), overrides))


def num_tokens(folder: Path) -> int:
    return read_manifest(folder).num_tokens("train")


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


GRAPE = "mixing={type: grape, interval: 4, step_size: 1.0, task_step_size: 1.0}"


def test_the_specific_sets_are_opened_where_the_mixture_aligns_to_them(folder):
    data = data_of(folder)
    assert (names(data.specific), names(data.held_out_specific)) == (["target"], ["target"])
    static = data_of(folder, "mixing={type: static, weights: uniform}")
    assert static.specific == ()
    assert names(static.held_out_specific) == ["target"]


def test_sets_that_are_only_evaluated_are_no_part_of_the_identity(folder):
    shutil.copytree(folder / "specific", folder / "more")
    before, after = data_of(folder), data_of(folder, "evaluation.sets={more: {path: more}}")
    assert names(after.held_out_specific) == ["target", "more"]
    assert names(after.specific) == ["target"]
    assert after.identity == before.identity


def test_an_evaluated_set_needs_a_validation_split(folder):
    manifest = read_manifest(folder / "specific")
    shutil.copytree(folder / "specific", folder / "more")
    edit_manifest(folder / "more", splits={"train": manifest.splits["train"]})
    with pytest.raises(ConfigError, match=r"evaluation\.sets\.more\.path: expected a validation"):
        data_of(folder, "evaluation.sets={more: {path: more}}")


GUARDED = "mixing.general_guard={max_rise: 0.1, pull: 0.5}"


def test_validation_splits_belong_to_a_run_that_is_guarded_by_their_loss(folder):
    assert "held_out" not in data_of(folder, "mixing.general_guard=null").identity
    before = data_of(folder, GUARDED).identity
    assert (
        data_of(folder, GUARDED.replace("0.1", "0.2"), "evaluation.interval=3").identity == before
    )
    shutil.rmtree(folder / "domains" / "d1")
    write_domain(folder / "domains" / "d1", seed=5)
    assert data_of(folder, GUARDED).identity["held_out"] != before["held_out"]


def test_the_default_guard_does_not_ask_for_validation_losses(folder):
    data_of(folder, "mixing={type: dga, prior_pull: 0.9}", "evaluation=null")


def test_a_guard_without_validation_losses_is_refused(folder):
    with pytest.raises(ConfigError) as error:
        data_of(folder, GUARDED, "evaluation=null")
    assert str(error.value) == (
        "override 1: mixing.general_guard: expected null without evaluation, "
        "found a guard without validation losses"
    )
    for name in ("d0", "d1"):
        manifest = read_manifest(folder / "domains" / name)
        edit_manifest(folder / "domains" / name, splits={"train": manifest.splits["train"]})
    with pytest.raises(
        ConfigError, match="null, or a domain with at least one window in its valid"
    ):
        data_of(folder, GUARDED)


@pytest.mark.parametrize("rule", ["mixing.type=dga", GRAPE])
def test_several_specific_sets_keep_their_order(folder, rule):
    two = "data.specific={z: {path: specific}, a: {path: examples, packing: examples}}"
    data = data_of(folder, two, rule)
    assert names(data.specific) == names(data.held_out_specific) == ["z", "a"]
    assert [type(each) for each in data.specific] == [Domain, Examples]
    assert list(data.identity["specific"]) == ["z", "a"]


def test_the_specific_set_is_packed_as_the_run_says(folder):
    packed = "data.specific={target: {path: examples, packing: examples}}"
    data = data_of(folder, packed)
    (specific,) = data.specific
    assert isinstance(specific, Examples)
    assert [type(held) for held in data.held_out_specific] == [Examples]
    assert specific.num_documents == 40
    assert {type(domain) for domain in (*data.domains, *data.held_out)} == {Domain}


@pytest.fixture
def talk(folder):
    """A domain of dialogues among others."""
    return write_domain(folder / "domains" / "talk", seed=3, chat=True, trained=0.1)


LISTED = "data.domains=[{name: d0, path: domains/d0}, {name: talk, path: domains/talk%s}]"


def test_domains_of_dialogues_are_packed_as_the_run_says(folder, talk):
    by_name = data_of(folder, "data.packing={talk: chat}")
    listed = data_of(folder, LISTED % ", packing: chat")
    plain = data_of(folder)

    for data in (by_name, listed):
        assert names([d for d in data.domains if d.trained is not None]) == ["talk"]
        assert names([d for d in data.held_out if d.trained is not None]) == ["talk"]
        assert data.ignored_spans == {}
        assert data.identity["chat"] == ["talk"]
    assert "chat" not in plain.identity
    assert plain.ignored_spans == {("data", "packing"): "stream for talk"}
    key = ("data", "domains", 1, "packing")
    assert data_of(folder, LISTED % "").ignored_spans == {key: "stream for talk"}
    assert differences(plain.identity, by_name.identity) == [
        'chat: expected nothing, found ["talk"]'
    ]


def test_a_run_of_dialogues_is_known_again_wherever_its_packing_is_written(folder, talk):
    configs = [
        load_config(write_run(folder), [override])
        for override in ("data.packing={talk: chat}", LISTED % ", packing: chat")
    ]
    assert configs[0].identity() == configs[1].identity()
    for config in configs:  # as a run writes it into its folder
        (folder / "again.yaml").write_text(config.to_yaml())
        assert load_config(folder / "again.yaml").data == load_config(folder / "again.yaml").data
        assert open_data(load_config(folder / "again.yaml")).identity["chat"] == ["talk"]


def test_packing_names_domains_that_have_trained_spans(folder, talk):
    with pytest.raises(ConfigError) as error:
        data_of(folder, "data.packing={tlk: chat, d1: stream}")
    assert str(error.value) == (
        "override 1: data.packing.tlk: expected the name of a domain, found 'tlk'; "
        "did you mean 'talk'?"
    )
    with pytest.raises(ConfigError) as error:
        data_of(folder, "data.packing=chat")
    assert str(error.value) == (
        "override 1: data.packing: expected stream, or dialogues with trained spans "
        "(megadga data build --chat), found chat for d0, whose shards have none"
    )


def test_dialogues_without_a_target_are_refused_in_training_and_not_held_out(folder, talk):
    manifest = read_manifest(talk)
    for split in ("train", "valid"):
        (entry,) = manifest.splits[split]
        spans_path(talk / entry.file).write_bytes(b"")
        changed = replace(entry, trained_tokens=0)
        edit_manifest(talk, splits={**manifest.splits, split: (changed,)})
        if split == "train":
            with pytest.raises(ShardError, match="talk: split train: expected trained tokens in "):
                data_of(folder, "data.packing={talk: chat}")
            shutil.rmtree(talk)
            write_domain(talk, seed=3, chat=True, trained=0.1)
    assert names(data_of(folder, "data.packing={talk: chat}").held_out) == ["d0", "d1"]


def test_examples_may_be_shorter_than_a_window(folder):
    packed = "data.specific={target: {path: examples, packing: examples}}"
    with pytest.raises(ConfigError, match=r"too_short: expected at least 100001 tokens .* in d0"):
        data_of(folder, packed, "model.sequence_length=100000")


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
    write_domain(folder / "short", seed=0, num_documents=1)
    with pytest.raises(ShardError, match=r"short: split train: expected at least 33 tokens .*get"):
        data_of(folder, "data.specific.target.path=short", "model.sequence_length=32")


def test_domains_shorter_than_a_window_are_refused_by_the_key_that_leaves_them_out(folder):
    for index in (2, 3):
        write_domain(folder / "domains" / f"d{index}", seed=index, num_documents=1)
    with pytest.raises(ConfigError) as error:
        data_of(folder, "model.sequence_length=32")
    assert str(error.value).endswith(
        "data.too_short: expected at least 33 tokens (one window of model.sequence_length + 1) in "
        f"every domain, or leave_out, found {num_tokens(folder / 'domains' / 'd2')} in d2 "
        "and too few in 1 more"
    )


def test_domains_shorter_than_a_window_are_excluded_where_that_is_asked_for(folder):
    write_domain(folder / "domains" / "c", seed=2, num_documents=1)
    data = data_of(folder, "data.too_short=leave_out", "model.sequence_length=32")
    assert names(data.domains) == names(data.held_out) == ["d0", "d1"]
    assert data.excluded == {"c": num_tokens(folder / "domains" / "c")}
    assert list(data.identity["domains"]) == ["d0", "d1"]


def test_excluding_every_domain_is_refused(folder):
    overrides = ("data.too_short=leave_out", "model.sequence_length=100000")
    with pytest.raises(
        ConfigError, match=r"data\.domains: expected a domain of at least 100001 .*"
    ):
        data_of(folder, *overrides)


@pytest.fixture
def grouped(folder):
    """Domains a to f in shared shards, of one to six documents each."""
    write_grouped(folder / "grouped", "abcdef")
    return "data.domains=grouped"


def test_domains_may_share_shards(folder, grouped):
    data = data_of(folder, grouped, "data.too_short=leave_out", "model.sequence_length=32")
    assert names(data.domains)[-3:] == ["d", "e", "f"]
    assert list(data.excluded)[:1] == ["a"]
    assert set(names(data.domains)).isdisjoint(data.excluded)
    assert set(names(data.held_out)) <= set(names(data.domains))


def test_the_identity_of_domains_that_share_shards_is_one_line(folder, grouped):
    def identity():
        return data_of(folder, grouped, "model.sequence_length=4").identity["domains"]

    before = identity()
    assert re.fullmatch(r"6 domains, \w{16}, [0-9]+ tokens, \w{16}", before)
    shutil.rmtree(folder / "grouped")
    write_grouped(folder / "grouped", "abcdef")
    assert identity() == before
    shutil.rmtree(folder / "grouped")
    write_grouped(folder / "grouped", "abcdeg")
    assert identity() != before
    shutil.rmtree(folder / "grouped")
    write_grouped(folder / "grouped", "abcdef", seed=1)
    assert identity() != before


def test_every_manifest_and_header_is_read_once(folder):
    write_run(folder)
    config = load_config(Path("run.yaml"))
    with watched_opens() as paths:
        open_data(config)
    expected = [
        Path(place, file)
        for place in ("domains/d0", "domains/d1", "specific")
        for file in ("manifest.json", "train-00000.idx", "valid-00000.idx")
    ]
    assert sorted(paths) == [str(path) for path in expected]


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


def test_a_vocabulary_of_another_size_is_another_run(folder):
    before = data_of(folder).identity
    for name in ("domains/d0", "domains/d1", "specific"):
        tokenizer = read_manifest(folder / name).tokenizer
        larger = replace(tokenizer, vocab_size=tokenizer.vocab_size + 1)
        edit_manifest(folder / name, tokenizer=larger)

    assert differences(before, data_of(folder).identity) == [
        "vocabulary_size: expected 64, found 65"
    ]


def test_every_file_that_is_read_has_one_name_wherever_it_lies(folder):
    before = data_of(folder).files
    (folder / "domains").rename(folder / "moved")
    after = data_of(folder, "data.domains=moved").files

    assert before.keys() == after.keys()
    assert "domains/d0/train-00000.bin" in before
    assert "specific/target/valid-00000.idx" in before
    assert (
        "domains/d0/valid-00000.bin"
        not in data_of(folder, "data.domains=moved", "evaluation=null").files
    )
