import json
import os
import re
import resource
import signal
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from megadga.data.folder import open_domains
from megadga.data.indexed import IndexedShard
from megadga.data.manifest import read_grouping, read_manifest
from megadga.errors import ConfigError, ShardError
from megadga.prepare.pipeline.build import Build, BuildResult, build_shards
from megadga.prepare.pipeline.corpus import Corpus, Recipe, corpus_by_input, corpus_of_files
from megadga.prepare.pipeline.merging import BuildOutput, ShardMerger
from megadga.prepare.pipeline.stages import Execution
from megadga.prepare.pipeline.work_folder import WorkFolder
from megadga.prepare.progress import no_progress
from megadga.prepare.reading.inputs import (
    DomainInput,
    expand_inputs,
    list_files,
    plan_domains,
)
from megadga.prepare.reading.records import Keys, MaxBad
from megadga.prepare.workers import open_processes
from tests.support.texts import made_up_texts, write_lines


@pytest.fixture
def source(tmp_path) -> DomainInput:
    return DomainInput("web", write_lines(tmp_path / "web.jsonl", made_up_texts(300)), None)


def build(
    inputs: list[DomainInput] | Corpus,
    tokenizer,
    output: Path | BuildOutput,
    recipe: Recipe = Recipe(),
    *,
    workers: int = 1,
    classifier=None,
    **execution,
) -> BuildResult:
    corpus = (
        inputs
        if isinstance(inputs, Corpus)
        else corpus_by_input(inputs, valid_fraction=recipe.valid_fraction)
    )
    where = output if isinstance(output, BuildOutput) else BuildOutput(output)
    with open_processes(workers) as them:
        return build_shards(
            Build(corpus, tokenizer, where, recipe, classifier), Execution(them, **execution)
        )


class SeenStages:
    """Keeps what it is told: of each stage its name, total and unit, and how much was done."""

    def __init__(self) -> None:
        self.seen: list[list[str | int]] = []

    def __call__(self, stage, total, unit, /):
        row = [stage, total, unit, 0]
        self.seen.append(row)

        def advance(amount):
            row[3] += amount

        return advance


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
    built = build([source], tokenizer, tmp_path / "out", Recipe(valid_fraction=0.2))
    train, valid = (read_split(tmp_path / "out/web", s, tokenizer) for s in ("train", "valid"))
    texts = made_up_texts(300)
    assert Counter(train + valid) == Counter(texts)
    assert 30 <= len(valid) <= 90
    assert train != [text for text in texts if text in set(train)]
    assert built == BuildResult((read_manifest(tmp_path / "out/web"),), num_records=300)
    assert built.manifests[0].tokenizer == tokenizer.identity
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "web.jsonl"]


def test_the_order_is_as_random_as_a_shuffle(source, tokenizer, tmp_path):
    build([source], tokenizer, tmp_path / "out", Recipe(valid_fraction=0.0))
    places = {text: place for place, text in enumerate(made_up_texts(300))}
    order = np.array([places[t] for t in read_split(tmp_path / "out/web", "train", tokenizer)])
    # Of a random order the correlation with the places is normal with deviation 1 / sqrt(n).
    assert abs(np.corrcoef(order, np.arange(order.size))[0, 1]) < 4 / np.sqrt(order.size)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(order.size)


@pytest.mark.parametrize(
    "differently",
    [
        pytest.param({"workers": 2}, id="two workers"),
        pytest.param({"memory_bytes": 3000}, id="runs and ranges of few documents"),
        pytest.param({"workers": 2, "memory_bytes": 3000}, id="both"),
    ],
)
def test_the_bytes_do_not_depend_on_how_it_is_carried_out(
    source, tokenizer, tmp_path, monkeypatch, differently
):
    monkeypatch.setattr("megadga.prepare.pipeline.corpus.MIN_TASK_BYTES", 4000)  # some 20 tasks
    recipe = Recipe(shard_tokens=5000)
    one = build([source], tokenizer, tmp_path / "one", recipe)
    other = build([source], tokenizer, tmp_path / "other", recipe, **differently)
    assert len(one.manifests[0].splits["train"]) > 3
    assert one == other
    assert read_files(tmp_path / "one/web") == read_files(tmp_path / "other/web")


def test_the_bytes_do_not_depend_on_how_files_are_cut(source, tokenizer, tmp_path, monkeypatch):
    built = []
    for least in (1000, 7000, 1 << 20):
        monkeypatch.setattr("megadga.prepare.pipeline.corpus.MIN_TASK_BYTES", least)
        built.append(build([source], tokenizer, tmp_path / f"{least}"))
    assert built[0] == built[1] == built[2]


def test_shards_have_about_the_size_that_is_asked_for(source, tokenizer, tmp_path):
    built = build([source], tokenizer, tmp_path / "out", Recipe(shard_tokens=4000))
    entries = built.manifests[0].splits["train"]
    shards = [IndexedShard.open(tmp_path / "out/web" / entry.file) for entry in entries]
    lengths = np.concatenate([shard.lengths for shard in shards]).astype(float)
    assert len(shards) == -(-int(lengths.sum()) // 4000)
    # Each document falls into any shard with the same chance: a sum of independent lengths.
    share = 1 / len(shards)
    deviation = np.sqrt((lengths**2).sum() * share * (1 - share))
    sizes = np.array([shard.num_tokens for shard in shards])
    assert (abs(sizes - lengths.sum() * share) < 4 * deviation).all()


def test_the_seed_changes_the_order_but_not_what_is_held_out(source, tokenizer, tmp_path):
    for seed in (1, 2):
        build([source], tokenizer, tmp_path / f"{seed}", Recipe(seed=seed))
    for split in ("train", "valid"):
        one, two = (read_split(tmp_path / f"{seed}/web", split, tokenizer) for seed in (1, 2))
        assert sorted(one) == sorted(two)
        assert one != two


def test_a_domain_does_not_depend_on_the_others(source, tokenizer, tmp_path):
    other = DomainInput("other", source.train, None)
    alone = build([source], tokenizer, tmp_path / "alone")
    both = build([other, source], tokenizer, tmp_path / "both")
    assert both.manifests[1] == alone.manifests[0]


def test_copies_of_a_document_are_held_out_together(tokenizer, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", made_up_texts(100) * 2)
    build(list(plan_domains([path])), tokenizer, tmp_path / "out", Recipe(valid_fraction=0.5))
    train, valid = (read_split(tmp_path / "out/a", s, tokenizer) for s in ("train", "valid"))
    assert not set(train) & set(valid)


def test_a_pair_is_split_as_it_came(tokenizer, tmp_path):
    texts = made_up_texts(40)
    paths = [
        write_lines(tmp_path / "qa.train.jsonl", texts[:30]),
        write_lines(tmp_path / "qa.valid.jsonl.gz", texts[30:]),
    ]
    build(list(plan_domains(paths)), tokenizer, tmp_path / "out", Recipe(valid_fraction=0.5))
    assert sorted(read_split(tmp_path / "out/qa", "train", tokenizer)) == sorted(texts[:30])
    assert sorted(read_split(tmp_path / "out/qa", "valid", tokenizer)) == sorted(texts[30:])


def test_nothing_is_held_out_of_a_fraction_of_zero(source, tokenizer, tmp_path):
    built = build([source], tokenizer, tmp_path / "out", Recipe(valid_fraction=0.0))
    assert built.manifests[0].num_documents("train") == 300
    assert built.manifests[0].num_documents("valid") == 0


def test_what_is_built_can_be_opened(source, tokenizer, tmp_path):
    build([source], tokenizer, tmp_path / "out")
    (domain,) = open_domains(tmp_path / "out", split="train", sequence_length=32)
    assert domain.tokenizer == tokenizer.identity
    assert domain.num_sequences > 100


def test_documents_are_cut_into_pieces_that_stay_on_their_side(source, tokenizer, tmp_path):
    recipe = Recipe(valid_fraction=0.3, piece_tokens=16)
    build([source], tokenizer, tmp_path / "out", recipe)
    build([source], tokenizer, tmp_path / "whole", Recipe(valid_fraction=0.3))
    for split in ("train", "valid"):
        pieces = read_split(tmp_path / "out/web", split, tokenizer)
        whole = read_split(tmp_path / "whole/web", split, tokenizer)
        assert len(pieces) > 2 * len(whole)
        assert sum(map(len, pieces)) == sum(map(len, whole))
        assert all(any(piece in text for text in whole) for piece in pieces)


def test_ids_are_kept_beside_their_documents(tokenizer, tmp_path):
    texts = made_up_texts(50)
    path = tmp_path / "a.jsonl"
    records = [{"text": text, "meta": {"id": n}} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    recipe = Recipe(Keys(id="meta.id"), valid_fraction=0.0)
    build(list(plan_domains([path])), tokenizer, tmp_path / "out", recipe, memory_bytes=2000)
    lines = (tmp_path / "out/a/train-00000.ids").read_text().splitlines()
    found = read_split(tmp_path / "out/a", "train", tokenizer)
    assert [texts[int(json.loads(line))] for line in lines] == found


@pytest.fixture
def mixed(tmp_path) -> Corpus:
    """Two files whose records say that they are of one of three sources."""
    texts = made_up_texts(120)
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.jsonl"
        records = [
            {"text": text, "source": ("zeta", "alpha", "mid")[place % 3]}
            for place, text in enumerate(texts)
            if place % 2 == number
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        files.append(path)
    return corpus_of_files(files, valid_fraction=0.0)


@pytest.mark.parametrize("memory_bytes", [1000, 1 << 20])
def test_records_can_say_their_domain(mixed, tokenizer, tmp_path, memory_bytes):
    recipe = Recipe(Keys(domain="source"), valid_fraction=0.0)
    built = build(mixed, tokenizer, tmp_path / "out", recipe, memory_bytes=memory_bytes)
    assert [manifest.name for manifest in built.manifests] == ["alpha", "mid", "zeta"]
    for first, name in enumerate(("zeta", "alpha", "mid")):
        texts = read_split(tmp_path / f"out/{name}", "train", tokenizer)
        assert sorted(texts) == sorted(made_up_texts(120)[first::3])


@pytest.mark.parametrize("memory_bytes", [1000, 1 << 20])
def test_domains_can_share_a_folder(mixed, tokenizer, tmp_path, memory_bytes):
    recipe = Recipe(Keys(domain="source"), valid_fraction=0.0, shard_tokens=2000)
    output = BuildOutput(tmp_path / "out", grouped=True)
    built = build(mixed, tokenizer, output, recipe, memory_bytes=memory_bytes)
    assert len(built.manifests[0].splits["train"]) > 2
    grouping = read_grouping(tmp_path / "out", built.manifests[0])
    texts = read_split(tmp_path / "out", "train", tokenizer)
    assert grouping.names == ("alpha", "mid", "zeta")
    bounds = grouping.bounds["train"].documents.tolist()
    for number, first in enumerate((1, 2, 0)):
        of_domain = texts[bounds[number] : bounds[number + 1]]
        assert sorted(of_domain) == sorted(made_up_texts(120)[first::3])
    (alpha, *_) = open_domains(tmp_path / "out", split="train", sequence_length=8)
    assert alpha.num_documents == 40


class ByLength:
    """Sorts texts into short ones, long ones, and a domain that nothing belongs to."""

    names = ("short", "none", "long")
    fingerprint = "ab"

    def assign(self, texts):
        return np.array([2 * (len(text) > 100) for text in texts], dtype=np.int64)


def test_a_classifier_sorts_documents_into_domains(source, tokenizer, tmp_path):
    corpus = corpus_of_files([source.train], valid_fraction=0.0)
    output = BuildOutput(tmp_path / "out", grouped=True)
    built = build(corpus, tokenizer, output, Recipe(valid_fraction=0.0), classifier=ByLength())
    grouping = read_grouping(tmp_path / "out", built.manifests[0])
    texts = read_split(tmp_path / "out", "train", tokenizer)
    num_short = sum(len(text) <= 100 for text in made_up_texts(300))
    assert grouping.names == ByLength.names
    assert grouping.classifier == ByLength.fingerprint
    assert grouping.bounds["train"].documents.tolist() == [0, num_short, num_short, 300]
    assert [len(text) > 100 for text in texts] == [False] * num_short + [True] * (300 - num_short)


class Composing:
    """A tokenizer that composes characters, as those of several models do."""

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self.path = tokenizer.path
        self.identity = tokenizer.identity

    def encode(self, texts):
        return self._tokenizer.encode([unicodedata.normalize("NFC", text) for text in texts])

    def decode(self, tokens):
        return self._tokenizer.decode(tokens)


def test_documents_that_do_not_survive_the_tokenizer_are_bad_records(tokenizer, tmp_path):
    texts = ["caf\u00e9", "cafe\u0301", "tea"]
    path = write_lines(tmp_path / "a.jsonl", texts)
    inputs, recipe = list(plan_domains([path])), Recipe(valid_fraction=0.0)
    reason = r"text: expected text that survives the tokenizer, 'cafe\\u0301', found 'caf\\xe9'"
    with pytest.raises(ConfigError, match=f"^{path}:2: {reason}; found 1 bad records among 3"):
        build(inputs, Composing(tokenizer), tmp_path / "out", recipe)
    built = build(inputs, Composing(tokenizer), tmp_path / "out", recipe, max_bad=MaxBad(1))
    assert built.num_bad == 1
    assert built.rejects is not None
    assert built.rejects.read_text().count("\n") == 1
    assert sorted(read_split(tmp_path / "out/a", "train", tokenizer)) == ["caf\u00e9", "tea"]


def test_the_sign_that_sentencepiece_has_for_the_space_becomes_one(tokenizer, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", ["a \u2581\u2581 b"])
    build(list(plan_domains([path])), tokenizer, tmp_path / "out", Recipe(valid_fraction=0.0))
    assert read_split(tmp_path / "out/a", "train", tokenizer) == ["a    b"]


def test_a_part_of_the_documents_is_checked_and_the_same_whatever_else_is_done(
    tokenizer, tmp_path, monkeypatch
):
    path = write_lines(tmp_path / "a.jsonl", [f"cafe\u0301 {n}" for n in range(400)])
    monkeypatch.setattr("megadga.prepare.pipeline.corpus.CHECKED_BYTES", path.stat().st_size // 4)
    found = []
    for least in (1000, 1 << 20):
        monkeypatch.setattr("megadga.prepare.pipeline.corpus.MIN_TASK_BYTES", least)
        out = tmp_path / f"{least}"
        built = build(list(plan_domains([path])), Composing(tokenizer), out, max_bad=MaxBad(400))
        assert built.rejects is not None
        found.append((built.num_bad, built.manifests, built.rejects.read_bytes()))
    assert found[0] == found[1]
    assert 65 <= found[0][0] <= 135  # of a binomial distribution: 4 deviations


def test_progress_of_both_halves_ends_at_their_total(source, tokenizer, tmp_path):
    stages = SeenStages()
    built = build([source], tokenizer, tmp_path / "out", stages=stages)
    size = source.train.stat().st_size
    tokens = sum(built.manifests[0].num_tokens(split) for split in ("train", "valid"))
    assert stages.seen == [["tokenizing", size, "B", size], ["writing", tokens, " tokens", tokens]]


def test_a_domain_that_exists_is_refused_before_any_work(source, tokenizer, tmp_path):
    (tmp_path / "out/web").mkdir(parents=True)
    first = DomainInput("first", source.train, None)
    stages = SeenStages()
    with pytest.raises(ShardError, match="out/web: expected no domain of this name yet"):
        build([first, source], tokenizer, tmp_path / "out", stages=stages)
    assert stages.seen == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["web"]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_copy_of_the_tokenizer_is_kept_with_shards_and_is_no_text(
    source, tokenizer, tmp_path, grouped
):
    build([source], tokenizer, BuildOutput(tmp_path / "out", grouped=grouped))
    (kept,) = (tmp_path / "out").glob("tokenizer-*")
    assert kept.name == f"tokenizer-{tokenizer.identity.fingerprint[:16]}.model"
    assert kept.read_bytes() == tokenizer.path.read_bytes()
    with pytest.raises(ConfigError, match=r"found none but 1 written by these tools"):
        expand_inputs([str(tmp_path / "out*")])
    with pytest.raises(ConfigError, match=r"expected documents, found .*shards"):
        expand_inputs([str(tmp_path / "out")])
    assert kept not in list_files(tmp_path)


def test_what_is_built_is_not_built_again(source, tokenizer, tmp_path):
    first = build([source], tokenizer, tmp_path / "out")
    stages = SeenStages()
    again = build([source], tokenizer, tmp_path / "out", stages=stages)
    assert again.manifests == first.manifests
    assert stages.seen == []


def change(path: Path, *, later_ns: int) -> None:
    """Change a file but for its size, and say when that was."""
    time = path.stat().st_mtime_ns + later_ns
    path.write_bytes(path.read_bytes().replace(b"a", b"e"))
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("later_ns", [1, -1])
@pytest.mark.parametrize("grouped", [False, True])
def test_what_was_built_of_a_file_that_has_changed_since_is_refused(
    source, tokenizer, tmp_path, grouped, later_ns
):
    output = BuildOutput(tmp_path / "out", grouped=grouped)
    build([source], tokenizer, output)
    change(source.train, later_ns=later_ns)
    stages = SeenStages()
    named = source.train if later_ns > 0 else output.final_path("web")
    with pytest.raises(ShardError, match=f"^{re.escape(str(named))}: expected no change since"):
        build([source], tokenizer, output, stages=stages)
    assert stages.seen == []


@pytest.mark.parametrize("grouped", [False, True])
def test_what_records_said_of_a_file_that_has_changed_is_refused_before_any_work(
    mixed, tokenizer, tmp_path, grouped
):
    recipe, output = Recipe(Keys(domain="source")), BuildOutput(tmp_path / "out", grouped=grouped)
    build(mixed, tokenizer, output, recipe)
    change(mixed.sources[1].path, later_ns=1)
    stages = SeenStages()
    with pytest.raises(ShardError, match=r"1\.jsonl: expected no change since .*out"):
        build(mixed, tokenizer, output, recipe, stages=stages)
    assert stages.seen == []


def test_a_build_that_stopped_does_not_continue_with_a_file_that_has_changed(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(BAD)
    with pytest.raises(ConfigError, match="bad records"):
        build(list(plan_domains([path])), tokenizer, tmp_path / "out")
    change(path, later_ns=1)
    with pytest.raises(
        ConfigError, match=rf"modified\.{re.escape(str(path))}: expected \d+, found"
    ):
        build(list(plan_domains([path])), tokenizer, tmp_path / "out", max_bad=MaxBad(2))


@pytest.mark.parametrize("append", [False, True])
def test_a_file_that_changes_while_it_is_read_is_missed(source, tokenizer, tmp_path, append):
    def changing(stage, total, unit, /):
        if stage == "tokenizing":
            if append:
                source.train.write_bytes(source.train.read_bytes() + b'{"text": "more"}\n')
            else:
                change(source.train, later_ns=1)
        return no_progress(stage, total, unit)

    with pytest.raises(
        ConfigError, match=r"web\.jsonl: expected .* found .*: remove .* and build"
    ):
        build([source], tokenizer, tmp_path / "out", stages=changing)
    assert not (tmp_path / "out").exists()


def test_a_build_that_was_killed_at_its_very_end_is_tidied_up(source, tokenizer, tmp_path):
    def killed(work_folder):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            build([source], tokenizer, tmp_path / "out")
    assert (tmp_path / ".out.building").exists()
    again = build([source], tokenizer, tmp_path / "out")
    assert again.manifests == (read_manifest(tmp_path / "out/web"),)
    assert not (tmp_path / ".out.building").exists()


@pytest.mark.parametrize("suffix", [".tokens", ".index"])
def test_a_run_that_a_power_cut_damaged_is_made_again(tokenizer, tmp_path, suffix):
    path = tmp_path / "a.jsonl"
    path.write_text(BAD)
    inputs = list(plan_domains([path]))
    build(inputs, tokenizer, tmp_path / "whole", max_bad=MaxBad(2))
    with pytest.raises(ConfigError, match="bad records"):
        build(inputs, tokenizer, tmp_path / "cut")
    (run,) = (tmp_path / ".cut.building/runs").glob(f"*{suffix}")
    run.write_bytes(bytes(run.stat().st_size))
    build(inputs, tokenizer, tmp_path / "cut", max_bad=MaxBad(2))
    assert read_files(tmp_path / "cut/a") == read_files(tmp_path / "whole/a")


def test_another_recipe_does_not_pass_for_what_is_built(source, tokenizer, tmp_path):
    build([source], tokenizer, tmp_path / "out")
    with pytest.raises(ShardError, match="out/web: expected no domain of this name yet"):
        build([source], tokenizer, tmp_path / "out", Recipe(seed=5))


BAD = '{"text": "good old"}\n{"txt": "bad"}\n{"text": "  "}\n{"text": "good"}\n'


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_record_is_listed_and_nothing_is_written(tokenizer, tmp_path, workers):
    path = tmp_path / "a.jsonl"
    path.write_text(BAD)
    with pytest.raises(ConfigError) as caught:
        build(list(plan_domains([path])), tokenizer, tmp_path / "out", workers=workers)
    (rejects,) = tmp_path.glob("out.rejects-*.jsonl")
    assert str(caught.value) == (
        f"{path}:2: text: expected a string, found only txt; found 2 bad records among 4, "
        f"expected at most max_bad = 0: they are listed in {rejects}; completed work is kept"
    )
    assert [json.loads(line) for line in rejects.read_text().splitlines()] == [
        {"file": str(path), "line": 2, "reason": "text: expected a string, found only txt"},
        {"file": str(path), "line": 3, "reason": "text: expected text, found white space alone"},
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("max_bad", ["2", "50%"])
def test_bad_records_that_are_allowed_are_excluded_and_listed(tokenizer, tmp_path, max_bad):
    path = tmp_path / "a.jsonl"
    path.write_text(BAD)
    recipe = Recipe(valid_fraction=0.0)
    inputs = list(plan_domains([path]))
    built = build(inputs, tokenizer, tmp_path / "out", recipe, max_bad=MaxBad.parse(max_bad))
    assert (built.num_records, built.num_bad) == (4, 2)
    assert sorted(read_split(tmp_path / "out/a", "train", tokenizer)) == ["good", "good old"]
    assert built.rejects is not None
    assert len(built.rejects.read_text().splitlines()) == 2


def test_after_too_many_bad_records_more_can_be_allowed(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(BAD)
    inputs = list(plan_domains([path]))
    with pytest.raises(ConfigError):
        build(inputs, tokenizer, tmp_path / "out")
    monkeypatch.setattr(
        "megadga.prepare.pipeline.tokenizing.iterate_records", None
    )  # nothing to read
    built = build(inputs, tokenizer, tmp_path / "out", max_bad=MaxBad(2))
    assert built.num_bad == 2


@pytest.mark.parametrize("pattern", ["*.jsonl", "*", ""])
def test_where_the_output_lies_among_the_inputs_the_build_goes_on(tokenizer, tmp_path, pattern):
    folder = tmp_path / "text"  # pytest's own says test
    folder.mkdir()
    (folder / "a.jsonl").write_text(BAD)

    def again(**options):
        inputs = list(plan_domains(expand_inputs([f"{folder}/{pattern}"])))
        return build(inputs, tokenizer, folder / "out", **options)

    with pytest.raises(ConfigError, match="bad records"):
        again()
    built = again(max_bad=MaxBad(2))
    assert [built.num_records, built.num_bad, len(built.manifests)] == [4, 2, 1]
    assert again(max_bad=MaxBad(2)).manifests == built.manifests


def test_a_domain_of_another_line_is_a_bad_record(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    records = [{"text": f"good {n}", "source": ("web\n", "books")[n % 2]} for n in range(20)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    output, recipe = BuildOutput(tmp_path / "out", grouped=True), Recipe(Keys(domain="source"))
    corpus = corpus_of_files([path], valid_fraction=0.05)
    built = build(corpus, tokenizer, output, recipe, max_bad=MaxBad(10))
    assert built.num_bad == 10
    assert read_grouping(output.path, built.manifests[0]).names == ("books",)


def test_files_whose_names_are_no_utf_8_are_read(tokenizer, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = write_lines(folder / os.fsdecode(b"\xff.jsonl"), [*made_up_texts(20), " "])
    corpus = corpus_by_input([DomainInput("web", folder, None)], valid_fraction=0.05)
    built = build(corpus, tokenizer, folder / os.fsdecode(b"\xfe"), max_bad=MaxBad(1))
    assert built.rejects is not None
    assert json.loads(built.rejects.read_text())["file"] == str(path)
    assert built.manifests[0].num_documents("train") > 10


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("file", "file: expected a folder or nothing yet, found a file"),
        (
            "file/out",
            r"file/\.out\.building: expected to write the shards of .*file/out, found Not",
        ),
        ("x" * 256, "x: expected to write the shards of .*, found File name too long"),
    ],
)
@pytest.mark.parametrize("grouped", [False, True])
def test_an_output_that_cannot_be_made_is_refused_in_a_line_that_names_it(
    source, tokenizer, tmp_path, name, named, grouped
):
    (tmp_path / "file").touch()
    stages = SeenStages()
    with pytest.raises(ShardError, match=named) as caught:
        build([source], tokenizer, BuildOutput(tmp_path / name, grouped=grouped), stages=stages)
    assert "\n" not in str(caught.value)
    assert stages.seen == []


@pytest.mark.parametrize("kept", [50, 5000])
def test_a_full_disk_ends_the_build_in_a_line_and_it_goes_on(source, tokenizer, tmp_path, kept):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kept, limit[1]))
    try:
        with pytest.raises(ShardError, match=r"out\.building.*: expected to write .* too large$"):
            build([source], tokenizer, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    again = build([source], tokenizer, tmp_path / "out")
    whole = build([source], tokenizer, tmp_path / "whole" / "out")
    assert again.manifests == whole.manifests


def test_a_document_too_large_for_the_memory_is_refused_and_more_memory_goes_on(
    tokenizer, tmp_path
):
    texts = [*made_up_texts(20), "a word " * 180_000]
    inputs = list(plan_domains([write_lines(tmp_path / "a.jsonl.gz", texts)]))
    recipe = Recipe(valid_fraction=0.0)
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz: expected records of at most 1,048,576 "):
        build(inputs, tokenizer, tmp_path / "out", recipe, memory_bytes=1 << 22)
    build(inputs, tokenizer, tmp_path / "out", recipe, memory_bytes=1 << 23)
    assert sorted(read_split(tmp_path / "out/a", "train", tokenizer)) == sorted(texts)


def test_after_a_wrong_key_the_right_one_can_be_given(source, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="body: expected a string, found only text"):
        build([source], tokenizer, tmp_path / "out", Recipe(Keys("body")))
    build([source], tokenizer, tmp_path / "out")


def test_an_unfinished_build_is_not_continued_with_something_else(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(BAD)
    inputs = list(plan_domains([path]))
    with pytest.raises(ConfigError, match="bad records"):
        build(inputs, tokenizer, tmp_path / "out")
    with pytest.raises(
        ConfigError,
        match=r"\.out\.building/plan\.json: recipe\.seed: expected 0, found 7: a "
        r"different build was interrupted here; finish that one, or remove .*/\.out\.building$",
    ):
        build(inputs, tokenizer, tmp_path / "out", Recipe(seed=7))


def write_sites(path: Path, texts: list[str], *, documents_of_each: int = 1) -> Corpus:
    """Write documents of very many small domains, named by the records; return their corpus."""
    records = [
        {"text": text, "source": f"site{number // documents_of_each:03d}"}
        for number, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return corpus_of_files([path], valid_fraction=0.5)


@pytest.mark.parametrize(("documents_of_each", "memory_bytes"), [(1, 500), (2, 1 << 20)])
def test_a_domain_of_which_all_would_be_held_out_is_trained_on_whole(
    tokenizer, tmp_path, memory_bytes, documents_of_each
):
    texts = made_up_texts(40)
    corpus = write_sites(tmp_path / "a.jsonl", texts, documents_of_each=documents_of_each)
    recipe = Recipe(Keys(domain="source"), valid_fraction=0.5)
    built = build(corpus, tokenizer, tmp_path / "out", recipe, memory_bytes=memory_bytes)
    found: list[str] = []
    for manifest in built.manifests:
        folder = tmp_path / "out" / manifest.name
        train, valid = (read_split(folder, split, tokenizer) for split in ("train", "valid"))
        assert train
        assert not (manifest.name in built.whole and valid)
        found += train + valid
    assert sorted(found) == sorted(texts)
    # Chance holds out 0.5 of documents: in 40 / n domains of n, all of 0.5^n of the domains.
    expected = 40 / documents_of_each * 0.5**documents_of_each
    assert abs(len(built.whole) - expected) < 4 * np.sqrt(expected)


def test_grouped_domains_are_trained_on_whole_likewise(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("megadga.prepare.pipeline.corpus.MIN_TASK_BYTES", 3000)
    texts = made_up_texts(40)
    corpus = write_sites(tmp_path / "a.jsonl", texts)
    recipe = Recipe(Keys(domain="source"), valid_fraction=0.5, shard_tokens=700)
    output = BuildOutput(tmp_path / "out", grouped=True)
    built = build(corpus, tokenizer, output, recipe, memory_bytes=500)
    grouping = read_grouping(tmp_path / "out", built.manifests[0])
    train = read_split(tmp_path / "out", "train", tokenizer)
    assert built.manifests[0].num_documents("valid") == 0
    assert grouping.bounds["train"].documents.tolist() == list(range(41))
    assert train == texts


def test_ids_go_with_the_documents_of_a_domain_that_is_trained_on_whole(tokenizer, tmp_path):
    texts = made_up_texts(20)
    corpus = write_sites(tmp_path / "a.jsonl", texts, documents_of_each=2)
    recipe = Recipe(Keys(domain="source", id="text"), valid_fraction=0.5)
    output = BuildOutput(tmp_path / "out", grouped=True)
    built = build(corpus, tokenizer, output, recipe)
    assert built.whole
    for split in ("train", "valid"):
        (entry,) = built.manifests[0].splits[split]
        ids = (tmp_path / "out" / f"{entry.file}.ids").read_text().splitlines()
        assert [json.loads(one) for one in ids] == read_split(tmp_path / "out", split, tokenizer)


def test_what_a_file_holds_out_is_never_trained_on(tokenizer, tmp_path):
    train = write_lines(tmp_path / "qa.train.jsonl", [" "])
    valid = write_lines(tmp_path / "qa.valid.jsonl", made_up_texts(3))
    with pytest.raises(ConfigError, match=r"one document to train on .* found none in qa"):
        build(list(plan_domains([train, valid])), tokenizer, tmp_path / "out", max_bad=MaxBad(1))


@pytest.mark.parametrize("changes", [{"grouped": True}, {"shard_tokens": 2000}])
def test_other_shards_are_made_of_what_is_tokenized(mixed, tokenizer, tmp_path, changes):
    write = ShardMerger.__call__

    def killed(merging, task):
        write(merging, task)
        raise KeyboardInterrupt

    def recipe(shard_tokens=1 << 20, **_):
        return Recipe(Keys(domain="source"), shard_tokens=shard_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardMerger, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            build(mixed, tokenizer, tmp_path / "out", recipe())
    stages = SeenStages()
    output = BuildOutput(tmp_path / "out", grouped="grouped" in changes)
    again = build(mixed, tokenizer, output, recipe(**changes), stages=stages)
    whole = BuildOutput(tmp_path / "whole/out", grouped="grouped" in changes)
    assert again.manifests == build(mixed, tokenizer, whole, recipe(**changes)).manifests
    checked, tokenized, written = stages.seen
    assert [checked[0], tokenized[0], written[0]] == ["checking", "tokenizing", "writing"]


@pytest.mark.parametrize("texts", [[], [""]])
def test_an_empty_domain_is_refused(tokenizer, tmp_path, texts):
    path = write_lines(tmp_path / "a.jsonl", texts)
    with pytest.raises(ConfigError, match=r"at least one document to train on .* found none in a"):
        build(list(plan_domains([path])), tokenizer, tmp_path / "out", max_bad=MaxBad(1))


def test_an_empty_file_is_refused_before_any_work(source, tokenizer, tmp_path):
    empty = DomainInput("empty", write_lines(tmp_path / "empty.jsonl", []), None)
    stages = SeenStages()
    with pytest.raises(ConfigError, match=r"document to train on .* found none in empty$"):
        build([source, empty], tokenizer, tmp_path / "out", stages=stages)
    assert stages.seen == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_fraction": 1.0}, "valid_fraction: expected 0 <= F < 1, found 1.0"),
        ({"valid_fraction": -0.1}, "found -0.1"),
        ({"seed": -1}, r"seed: expected 0 <= N < 2\^64, found -1"),
        ({"piece_tokens": 0}, "piece_tokens: expected at least 1, found 0"),
        ({"shard_tokens": 0}, "shard_tokens: expected at least 1, found 0"),
    ],
)
def test_a_recipe_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**options)
