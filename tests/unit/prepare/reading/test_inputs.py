import os

import pytest

from megadga.errors import ConfigError
from megadga.prepare.reading.inputs import (
    DomainInput,
    expand_inputs,
    list_files,
    plan_domains,
    plan_files,
)


@pytest.fixture
def touch(tmp_path):
    def create(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("")
        return [tmp_path / name for name in names]

    return create


def test_patterns_give_each_path_once_and_sorted(touch, tmp_path):
    b, a, _ = touch("b.jsonl", "a.jsonl.gz", "c.txt")
    assert expand_inputs([f"{tmp_path}/*.jsonl*", f"{b}"]) == (a, b)


def test_two_stars_reach_into_folders(touch, tmp_path):
    a, b = touch("a.jsonl", "x/b.jsonl")
    assert expand_inputs([f"{tmp_path}/**/*.jsonl"]) == (a, b)


def test_a_name_with_brackets_is_taken_as_it_stands(touch):
    (path,) = touch("a[1].jsonl")
    assert expand_inputs([str(path)]) == (path,)


def test_a_pattern_without_match_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no-such-\*: expected a file or folder, found none"):
        expand_inputs([f"{tmp_path}/no-such-*"])


def test_a_domain_is_named_after_its_input(touch, tmp_path):
    paths = touch("web.v2.jsonl.gz", "code.jsonl", "a.jsonl.zst", "b.parquet", "novel.txt")
    (tmp_path / "folder.d").mkdir()
    domains = plan_domains([*paths, tmp_path / "folder.d"])
    assert [domain.name for domain in domains] == [
        "web.v2",
        "code",
        "a",
        "b",
        "novel",
        "folder.d",
    ]
    assert all(domain.valid is None for domain in domains)


def test_a_pair_makes_the_two_splits_of_one_domain(touch):
    train, valid = touch("qa.train.jsonl.gz", "qa.valid.jsonl")
    assert plan_domains([valid, train]) == (DomainInput("qa", train, valid),)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.csv"], r"a\.csv: expected a folder or a file that ends in \.jsonl, \.jsonl\.gz, "),
        ([".jsonl"], r"\.jsonl: expected a folder or a file that ends in"),
        ([".hidden.txt"], r"\.hidden\.txt: expected a folder or a file"),
        (["a.jsonl", "x/a.txt"], r"x/a\.txt: expected one input for the domain a, .*a\.jsonl too"),
        (["a.train.txt"], r"a\.train\.txt: expected a\.valid among the inputs too"),
        (["a.valid.txt"], r"a\.valid\.txt: expected a\.train among the inputs too"),
        (["a.train.txt", "a.valid.txt", "a.txt"], "expected one input for the domain a"),
    ],
)
def test_inputs_that_contradict_are_refused(touch, names, message):
    with pytest.raises(ConfigError, match=message):
        plan_domains(touch(*names))


@pytest.mark.parametrize("name", ["web\n", "caf\udce9", "a\x1b[1m", "x" * 201, "manifest.json"])
@pytest.mark.parametrize("kind", ["{}.jsonl", "{}.train.jsonl", "{}/a.txt"])
def test_an_input_whose_name_can_name_no_domain_is_refused(touch, name, kind):
    (path,) = touch(kind.format(name))
    with pytest.raises(ConfigError, match=r"expected a name for a folder, of printable .* found"):
        plan_domains([path.parent if path.name == "a.txt" else path])


SHARDS = ("out/web/manifest.json", "out/web/train-00000.idx", "out/web/train-00000.bin")
CLUSTERS = ("clusters/clusters.json", "clusters/centroids.npz")
REJECTS = ("out.rejects-0123abcd.jsonl",)


@pytest.mark.parametrize("pattern", ["*", "*.jsonl", "**/*", "**/*.jsonl"])
def test_no_pattern_matches_what_the_tools_have_written(touch, tmp_path, pattern):
    text, *_ = touch("a.jsonl", *SHARDS, *CLUSTERS, *REJECTS)
    assert expand_inputs([f"{tmp_path}/{pattern}"]) == (text,)


def test_what_the_tools_have_written_into_a_folder_is_left_aside(touch, tmp_path):
    text, *_ = touch("a.jsonl", *SHARDS, *CLUSTERS, *REJECTS)
    assert list_files(tmp_path) == (text,)


@pytest.mark.parametrize(
    ("names", "named", "kind"),
    [
        (SHARDS, "out", "shards"),
        (SHARDS, "out/web", "the shards of a domain"),
        (CLUSTERS, "clusters", "a clustering"),
        (REJECTS, REJECTS[0], "a list of rejected records"),
    ],
)
def test_what_the_tools_have_written_is_refused_by_name(touch, tmp_path, names, named, kind):
    touch(*names)
    with pytest.raises(ConfigError, match=f"{named}: expected documents, found {kind}$"):
        expand_inputs([str(tmp_path / named)])


def test_a_pattern_that_matches_nothing_else_says_so(touch, tmp_path):
    touch(*REJECTS)
    with pytest.raises(ConfigError, match="found none but 1 that these tools have written"):
        expand_inputs([f"{tmp_path}/*"])


def test_a_pattern_does_not_match_the_output_and_no_folder_may_hold_it(touch, tmp_path):
    text, output = touch("in/a.jsonl", "in/tok.model")
    assert expand_inputs([f"{tmp_path}/in/*"], output=output) == (text,)
    with pytest.raises(ConfigError, match=r"tok\.model: expected an output outside of the inputs"):
        expand_inputs([str(tmp_path / "in")], output=output)


def test_the_files_of_a_folder_are_sorted_by_path_without_hidden_ones(touch, tmp_path):
    c, a, _, _, b = touch("c.txt", "a/x.jsonl", ".hidden", ".git/config", "b/y")
    assert list_files(tmp_path) == (a, b, c)


def test_the_files_of_a_file_are_itself(touch):
    (path,) = touch(".hidden")
    assert list_files(path) == (path,)


def test_a_link_to_a_file_counts_and_one_to_a_folder_does_not(touch, tmp_path):
    (path,) = touch("there/a.txt")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").symlink_to(path)
    (folder / "up").symlink_to(tmp_path)
    assert list_files(folder) == (folder / "file",)


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "no-such")
    with pytest.raises(ConfigError, match=r"expected a file or folder, found .*link'"):
        list_files(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(ConfigError, match=r"expected a file or folder, found .*locked'"):
        list_files(tmp_path)


def test_inputs_without_domains_are_all_their_files_each_once(touch, tmp_path):
    b, a, _ = touch("b.jsonl", "x/a.parquet", "x/c.md")
    assert plan_files([tmp_path / "x", b, a]) == (b, a, tmp_path / "x/c.md")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.csv"], r"a\.csv: expected a folder or a file that ends in"),
        (["a.jsonl", "a.valid.jsonl"], r"a\.valid\.jsonl: expected no split .* found valid$"),
        (["a.train.parquet"], r"a\.train\.parquet: expected no split .* found train$"),
    ],
)
def test_inputs_without_domains_that_contradict_are_refused(touch, names, message):
    with pytest.raises(ConfigError, match=message):
        plan_files(touch(*names))


@pytest.mark.parametrize("name", ["x/a.valid.jsonl", "x.valid/a.jsonl"])
def test_a_split_in_the_name_of_a_folder_or_inside_it_is_refused_too(touch, name):
    (path,) = touch(name)
    with pytest.raises(ConfigError, match=r"expected no split in the name, .* found valid$"):
        plan_files([path.parent])
