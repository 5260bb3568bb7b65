import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megadga.data.folder import DomainSource, open_domains
from megadga.data.manifest import read_manifest, write_manifest
from megadga.errors import ConfigError, ShardError
from megadga.prepare.leakage.search import (
    Leakage,
    LeakageRule,
    LeakageSearch,
    Overlap,
    describe_excess,
    plan_search,
    render_leakage,
    write_leakage,
)
from tests.support.leaks import IDENTITY, random_document, write_leak

RULE = LeakageRule(n=8)
NUM_NGRAMS = 4 * 33  # 40 - 8 + 1 of each long document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_leak(tmp_path_factory.mktemp("leak"))


def search(folder: Path, rule: LeakageRule = RULE) -> LeakageSearch:
    domains = open_domains(folder / "domains", split="train", sequence_length=1)
    return plan_search(DomainSource("target", folder / "specific"), domains, rule)


def leakage(folder: Path, rule: LeakageRule = RULE) -> Leakage:
    return search(folder, rule).run(lambda _: None)


def numbers(overlap: Overlap) -> tuple[str, int, int]:
    return overlap.name, overlap.num_ngrams, overlap.num_leaked


def test_each_domain_tells_what_of_the_set_it_holds(folder):
    found = leakage(folder)

    # A whole document, and three n-grams (10 - 8 + 1) of another.
    assert [numbers(overlap) for overlap in found.domains] == [("leaky", 36, 1), ("clean", 0, 0)]
    assert found.domains[0].share == 36 / NUM_NGRAMS
    assert (found.num_documents, found.num_short, found.num_ngrams) == (5, 1, NUM_NGRAMS)


def test_the_sets_own_training_split_is_looked_through_and_is_no_domain(folder):
    found = leakage(folder)

    assert found.own is not None
    assert numbers(found.own) == ("target's training split", 7, 0)
    assert numbers(found.all_domains) == ("all domains", 36, 1)


def test_what_domains_hold_together_is_counted_once(folder):
    once = search(folder)
    twice = replace(once, domains=(*once.domains, *once.domains))

    assert numbers(twice.run(lambda _: None).all_domains) == ("all domains", 36, 1)


@pytest.mark.parametrize(("share", "leaked"), [(3 / 33, 2), (3 / 33 + 1e-9, 1), (1.0, 1)])
def test_a_document_is_leaked_from_the_given_share_of_its_ngrams(folder, share, leaked):
    found = leakage(folder, LeakageRule(n=8, document_share=share))

    assert found.domains[0].num_leaked == leaked


def test_a_match_says_where_to_look(folder):
    (match,) = [o.match for o in leakage(folder).domains if o.match is not None]

    assert (match.document, match.offset) == (2, 0)
    assert match.position == 7 * 41 + 40  # seven documents with EOD, and what stands before
    assert list(match.tokens) == random_document(0, 2)[:8].tolist()


def test_every_token_is_looked_at_once(folder):
    looked_at: list[int] = []
    planned = search(folder)
    planned.run(looked_at.append)

    assert sum(looked_at) == planned.num_tokens
    assert planned.num_tokens == sum(
        read_manifest(folder / part).num_tokens("train")
        for part in ("domains/clean", "domains/leaky", "specific")
    )


def test_excesses_are_the_places_above_the_limit_worst_first(folder):
    found = leakage(folder)

    def names(limit: float) -> list[str]:
        rule = replace(RULE, max_overlap=limit)
        return [overlap.name for overlap in replace(found, rule=rule).excesses]

    assert names(0.0) == ["leaky", "all domains", "target's training split"]
    assert names(7 / NUM_NGRAMS) == ["leaky", "all domains"]
    assert names(36 / NUM_NGRAMS) == []


def test_the_table_shows_the_worst_domain_first(folder):
    first, *table = render_leakage(leakage(folder))

    assert first == (
        "target: 5 held-out documents, 132 n-grams of 8 tokens; too short to look for: 1"
    )
    assert table == [
        "domain                   n-grams  overlap  documents with >= 50%  for example",
        (
            "leaky                         36   27.27%                      1"
            "  document 2 from token 0, there from token 327"
        ),
        "clean                          0    0.00%                      0",
        "all domains                   36   27.27%                      1",
        (
            "target's training split        7    5.30%                      0"
            "  document 0 from token 20, there from token 0"
        ),
    ]


def test_with_a_tokenizer_the_table_shows_text(folder):
    lines = render_leakage(leakage(folder), decode=lambda tokens: f"{tokens.size} words\n")

    assert next(line for line in lines if line.endswith(r"  '8 words\n'")).startswith("leaky ")


def test_of_very_many_domains_the_worst_are_listed(folder):
    found = leakage(folder)
    leaky, clean = found.domains
    less = replace(leaky, share=0.125)
    many = replace(found, domains=(*[leaky] * 39, *[less] * 3, *[clean] * 2000))

    lines = list(render_leakage(many))

    assert [line.split()[0] for line in lines[2:]] == ["leaky"] * 40 + ["and", "all", "target's"]
    assert lines[42] == "and 2,002 more with at most 12.50%"


def test_a_complaint_names_the_places(folder):
    found = leakage(folder, LeakageRule(n=8, max_overlap=0.1))

    assert describe_excess(found) == (
        "target: expected at most 10.00% of its held-out n-grams in one place, "
        "found 27.27% in leaky, 27.27% in all domains"
    )
    assert describe_excess(leakage(folder)) is None


def test_a_complaint_names_five_places_of_many(folder):
    found = leakage(folder, LeakageRule(n=8, max_overlap=0.1))
    many = replace(found, domains=found.domains[:1] * 9)

    assert (describe_excess(many) or "").endswith(", 27.27% in leaky and 5 more")


def test_all_numbers_are_written(folder, tmp_path):
    write_leakage(tmp_path / "leakage.json", [leakage(folder)])

    (written,) = json.loads((tmp_path / "leakage.json").read_text())
    assert written["rule"] == {"n": 8, "document_share": 0.5, "max_overlap": 1.0}
    assert written["domains"][0]["match"] == {
        "document": 2,
        "offset": 0,
        "position": 327,
        "tokens": random_document(0, 2)[:8].tolist(),
    }


def test_a_file_that_cannot_be_written_is_named(folder, tmp_path):
    path = tmp_path / "no" / "leakage.json"
    with pytest.raises(ConfigError, match=f"{path}: expected to write it, found No such file"):
        write_leakage(path, [leakage(folder)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: expected at least 1 token, found 0"),
        ({"document_share": 0.0}, "document_share: expected 0 < F <= 1, found 0.0"),
        ({"document_share": 1.5}, "document_share: expected 0 < F <= 1, found 1.5"),
        ({"max_overlap": -0.1}, "max_overlap: expected 0 <= F <= 1, found -0.1"),
        ({"max_overlap": float("nan")}, "max_overlap: expected 0 <= F <= 1, found nan"),
    ],
)
def test_a_rule_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError) as caught:
        LeakageRule(**options)
    assert str(caught.value) == message


def test_a_set_of_short_documents_alone_cannot_be_looked_for(folder):
    with pytest.raises(ConfigError) as caught:
        search(folder, LeakageRule(n=41))
    assert str(caught.value) == (
        f"{folder / 'specific'}: split valid: expected a document with 41 tokens in a row (n), "
        "found 5 shorter ones"
    )


def test_a_set_by_another_tokenizer_is_refused(tmp_path):
    folder = write_leak(tmp_path)
    manifest = read_manifest(folder / "specific")
    other = replace(IDENTITY, fingerprint="0" * 64)
    write_manifest(folder / "specific", replace(manifest, tokenizer=other))
    with pytest.raises(ShardError, match=r"specific/manifest\.json: tokenizer: expected that of"):
        search(folder)


@pytest.mark.parametrize(
    ("valid", "message"),
    [(None, "splits: expected valid, found only train"), ((), "split valid: expected a document")],
)
def test_a_set_without_held_out_documents_is_refused(tmp_path, valid, message):
    folder = write_leak(tmp_path)
    manifest = read_manifest(folder / "specific")
    splits = {"train": manifest.splits["train"], **({} if valid is None else {"valid": valid})}
    write_manifest(folder / "specific", replace(manifest, splits=splits))
    with pytest.raises(ShardError, match=message):
        search(folder)


def test_a_set_without_a_training_split_has_no_row_of_its_own(tmp_path):
    folder = write_leak(tmp_path)
    manifest = read_manifest(folder / "specific")
    valid = {"valid": manifest.splits["valid"]}
    write_manifest(folder / "specific", replace(manifest, splits=valid))

    found = leakage(folder)

    assert found.own is None
    assert "training split" not in "".join(render_leakage(found))
    assert np.isclose(found.all_domains.share, 36 / NUM_NGRAMS)
