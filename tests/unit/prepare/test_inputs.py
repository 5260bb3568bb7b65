import pytest

from megadga.errors import ConfigError
from megadga.prepare.inputs import DomainInput, expand_inputs, plan_domains


@pytest.fixture
def touch(tmp_path):
    def create(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
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
    paths = touch("web.v2.jsonl.gz", "code.jsonl", "novel.txt")
    (tmp_path / "folder.d").mkdir()
    domains = plan_domains([*paths, tmp_path / "folder.d"])
    assert [domain.name for domain in domains] == ["web.v2", "code", "novel", "folder.d"]
    assert all(domain.valid is None for domain in domains)


def test_a_pair_makes_the_two_splits_of_one_domain(touch):
    train, valid = touch("qa.train.jsonl.gz", "qa.valid.jsonl")
    assert plan_domains([valid, train]) == (DomainInput("qa", train, valid),)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.parquet"], r"a\.parquet: expected a folder or a file that ends in \.jsonl\.gz"),
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
