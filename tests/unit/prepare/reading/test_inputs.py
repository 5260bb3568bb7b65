import os

import pytest

from megadga.errors import ConfigError
from megadga.prepare.reading.inputs import (
    DomainInput,
    describe_skipped,
    expand_inputs,
    list_files,
    pair_files,
    plan_domains,
    plan_files,
    skipped_files,
    training_files,
    training_inputs,
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
        (
            ["a.jsonl", "a.test.jsonl"],
            r"a\.test\.jsonl: expected an input to train on, .* says tes",
        ),
        (
            ["train-0.parquet", "validation-0.parquet"],
            r"validation-0\.par.* says valid: remove it",
        ),
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


def test_links_do_not_lead_to_what_the_tools_have_written(touch, tmp_path):
    text, *_ = touch("in/a.jsonl", *SHARDS, *CLUSTERS)
    (tmp_path / "in/linked").symlink_to(tmp_path / "out")
    (tmp_path / "in/web").symlink_to(tmp_path / "out/web")
    (tmp_path / "in/clusters").symlink_to(tmp_path / "clusters")
    assert list_files(tmp_path / "in") == (text,)


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
    with pytest.raises(ConfigError, match="found none but 1 written by these tools"):
        expand_inputs([f"{tmp_path}/*"])


def test_a_pattern_does_not_match_the_output_and_no_folder_may_hold_it(touch, tmp_path):
    text, output = touch("in/a.jsonl", "in/tok.model")
    assert expand_inputs([f"{tmp_path}/in/*"], output=output) == (text,)
    (tmp_path / "link").symlink_to("in")
    assert len(expand_inputs([f"{tmp_path}/link/*"], output=output)) == 1
    with pytest.raises(ConfigError, match=r"tok\.model: expected an output outside of the inputs"):
        expand_inputs([str(tmp_path / "in")], output=output)


def test_a_folder_that_says_test_makes_no_domain(touch):
    (path,) = touch("qa_test/0.jsonl")
    with pytest.raises(ConfigError, match=r"qa_test: expected an input to train on, .* says test"):
        plan_domains([path.parent])


def test_a_pattern_does_not_reach_into_folders_that_say_validation_or_test(touch, tmp_path):
    touch("train/0.jsonl", "test/1.jsonl")
    with pytest.raises(ConfigError, match=r"test/1\.jsonl: expected the pattern .* says test"):
        expand_inputs([f"{tmp_path}/*/*.jsonl"])
    named = expand_inputs([f"{tmp_path}/test/*.jsonl"])
    assert named == (tmp_path / "test/1.jsonl",)


def test_only_the_files_of_a_folder_that_are_for_training_are_trained_on(touch, tmp_path):
    train, _, _, _ = touch("x/train.jsonl", "x/valid.jsonl", "x/test.jsonl", "x/README.md")
    assert training_files(tmp_path / "x") == (train,)
    assert training_files(tmp_path / "x/test.jsonl") == (tmp_path / "x/test.jsonl",)


def test_nothing_is_excluded_of_a_pair(touch, tmp_path):
    touch("qa.valid/valid-0.jsonl", "qa.train/0.jsonl")
    paths = [tmp_path / "qa.train", tmp_path / "qa.valid"]
    assert skipped_files(paths, pairs=True) == ()
    assert skipped_files(paths) == (paths[1],)


def test_inputs_to_learn_from_are_not_called_after_validation_or_test(touch):
    a, train, *others = touch("a.jsonl", "qa.train.jsonl", "qa.valid.jsonl", "qa_test.jsonl")
    assert training_inputs([a, train, *others]) == (a, train)
    assert skipped_files([a, train, *others]) == tuple(others)
    with pytest.raises(ConfigError, match=r"qa\.valid\.jsonl: expected inputs to train on, found"):
        training_inputs(others)


def test_what_is_excluded_is_named_in_a_line(touch, tmp_path):
    touch("x/train.jsonl", *(f"x/test-{number}.jsonl" for number in range(5)))
    (line,) = describe_skipped([tmp_path / "x"])
    names = ", ".join(f"{tmp_path}/x/test-{number}.jsonl" for number in range(3))
    assert line.endswith(f": {names} and 2 more")
    assert describe_skipped([tmp_path / "x/train.jsonl"]) == []


def test_a_half_of_a_pair_may_be_a_folder_of_that_split(touch, tmp_path):
    files = touch("qa.valid/0.jsonl", "qa.valid/valid-1.jsonl")
    assert pair_files(tmp_path / "qa.valid", "valid") == tuple(files)
    with pytest.raises(ConfigError, match=r"expected only train files in .* that says valid"):
        pair_files(tmp_path / "qa.valid", "train")


def test_the_files_of_a_folder_are_sorted_by_path_without_hidden_ones(touch, tmp_path):
    c, a, _, _, b = touch("c.txt", "a/x.jsonl", ".hidden", ".git/config", "b/y")
    assert list_files(tmp_path) == (a, b, c)


def test_the_files_of_a_file_are_itself(touch):
    (path,) = touch(".hidden")
    assert list_files(path) == (path,)


def test_links_are_followed_and_what_they_lead_to_is_listed_once(touch, tmp_path):
    a, b, c = touch("disk/a.txt", "folder/b.txt", "folder/sub/c.txt")
    folder = tmp_path / "folder"
    (folder / "again").symlink_to(folder / "sub")
    (folder / "file.txt").symlink_to(a)
    (folder / "first.txt").symlink_to(b)
    (folder / "hard.txt").hardlink_to(c)
    (folder / "linked").symlink_to(a.parent)
    (folder / "sub" / "up").symlink_to(folder)
    assert list_files(folder) == (b, folder / "hard.txt", folder / "linked" / "a.txt")


def test_a_link_to_a_folder_above_it_is_not_followed(touch, tmp_path):
    a, _ = touch("folder/a.txt", "other/b.txt")
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    assert list_files(tmp_path / "folder") == (a,)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("d.jsonl", "d.jsonl.gz"),
        ("d.jsonl.zst", "d.jsonl.gz"),
        ("d.parquet", "d.jsonl"),
        ("d.json", "d.JSONL"),
        ("wiki_00", "wiki_00.gz"),
    ],
)
def test_a_text_in_two_formats_is_refused(touch, tmp_path, one, other):
    touch(f"x/{one}", f"x/{other}")
    for read in (list_files, lambda folder: plan_files([folder])):
        with pytest.raises(ConfigError, match=r"expected its text in one file, found .*x/"):
            read(tmp_path / "x")


def test_names_that_differ_in_more_than_the_format_are_of_other_texts(touch, tmp_path):
    files = touch("x/a.jsonl", "x/a.md", "x/a.txt", "x/b.jsonl", "x/y/a.jsonl")
    assert list_files(tmp_path / "x") == tuple(files)


def test_a_path_spelt_in_several_ways_is_one(touch, tmp_path, monkeypatch):
    (path,) = touch("x/d.jsonl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("x")
    spellings = [f"{path}", "x/d.jsonl", "./x/d.jsonl", "x/../x/d.jsonl", "link/d.jsonl", "*/d.*"]
    assert len(expand_inputs(spellings)) == 1
    assert len(expand_inputs(["x", "./x/", f"{tmp_path}/x"])) == 1


def test_a_file_in_two_domains_is_refused(touch, tmp_path):
    a, _ = touch("x/a.jsonl", "x/b.jsonl")
    (tmp_path / "c.jsonl").symlink_to(a)
    (tmp_path / "d.jsonl").hardlink_to(a)
    for one, other in ((tmp_path / "x", a), (a, tmp_path / "c.jsonl"), (a, tmp_path / "d.jsonl")):
        with pytest.raises(ConfigError, match=r"expected each file in one input, found it in an"):
            plan_domains([one, other])


def test_a_file_in_both_splits_is_refused(touch, tmp_path):
    (train,) = touch("qa.train.jsonl")
    valid = tmp_path / "qa.valid.jsonl"
    valid.symlink_to(train)
    with pytest.raises(ConfigError, match=r"expected each file in one input, found it in another"):
        plan_domains([train, valid])


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
    (tmp_path / "d.jsonl").symlink_to(b)
    (tmp_path / "e.jsonl").hardlink_to(b)
    links = [tmp_path / "d.jsonl", tmp_path / "e.jsonl"]
    assert plan_files([tmp_path / "x", *links, b, a]) == (b, a, tmp_path / "x/c.md")


def test_inputs_without_domains_may_say_that_they_are_for_training(touch, tmp_path):
    files = touch("x/train-0.parquet", "x/more.jsonl", "x/README.md", "x/tests/test.py")
    assert plan_files([tmp_path / "x"]) == (files[1], files[0])
    assert skipped_files([tmp_path / "x"]) == (files[2], files[3])


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


@pytest.mark.parametrize(
    "name", ["x/a.valid.jsonl", "x.valid/a.jsonl", "x/dev-0.parquet", "x_val/a.jsonl"]
)
def test_a_split_in_the_name_of_a_folder_or_inside_it_is_refused_too(touch, name):
    (path,) = touch(name)
    with pytest.raises(ConfigError, match=r"expected no split in the name, .* found valid$"):
        plan_files([path.parent])
