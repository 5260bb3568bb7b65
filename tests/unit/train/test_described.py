from pathlib import Path

import numpy as np
import pytest

from megadga.check import check
from megadga.config.loading import load_config
from megadga.data.labels import Label, Labels, Parent, write_labels
from megadga.errors import ConfigError
from megadga.mixers.basis import Basis, write_basis
from megadga.report.domains import DomainInfo, write_domain_info
from megadga.train.data import open_data
from megadga.train.described import describe_domains
from tests.support.runs import write_run
from tests.support.shards import write_grouped, write_sets

CODE = Label(("def", "return", "self", "import", "class", "none"), ("def f():",))
PARENTS = {
    "c0 of 2": Parent(("sea", "ship"), ("c0", "c1")),
    "c1 of 2": Parent(("law",), ("c2", "c3")),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=3)


def described(folder, *overrides, is_new=True) -> DomainInfo:
    config = load_config(write_run(folder), overrides)
    return describe_domains(config, open_data(config), is_new=is_new)


def test_domains_without_labels_and_groups_are_names(folder):
    assert described(folder) == DomainInfo(("d0", "d1", "d2"))


def test_labels_beside_the_shards_are_short_texts(folder):
    write_labels(folder / "domains", Labels({"d1": CODE, "gone": CODE}))
    info = described(folder)
    assert info.labels == {"d1": "def, return, self, import, class"}
    assert info.examples == {"d1": ("def f():",)}


def test_listed_domains_have_the_labels_of_their_folders(folder):
    write_labels(folder / "domains", Labels({"d1": CODE}))
    listed = "data.domains=[{name: b, path: domains/d1}, {name: a, path: domains/d0}]"
    assert described(folder, listed).labels == {"b": "def, return, self, import, class"}


def test_groups_hold_the_domains_that_they_name(folder):
    assert described(folder, "data.groups={code: [d2, d0]}").groups == {"code": ("d2", "d0")}


def test_an_unknown_domain_of_a_group_is_an_error_with_the_nearest_name(folder):
    message = r"data\.groups\.code\.1: expected the name of a domain, found 'd22'.*'d2'"
    with pytest.raises(ConfigError, match=message):
        described(folder, "data.groups={code: [d0, d22]}")


def test_a_group_has_no_domains_name(folder):
    message = r"data\.groups\.d1: expected a name that no domain has, found 'd1'"
    with pytest.raises(ConfigError, match=message):
        described(folder, "data.groups={d1: [d0]}")


def test_parents_are_the_clusters_of_the_level_above(folder):
    write_grouped(folder / "clustered", ["c0", "c1", "c2", "c3"])
    write_labels(folder / "clustered", Labels({}, PARENTS))
    clustered = ["data.domains=clustered", "model.sequence_length=4"]
    info = described(folder, *clustered, "data.groups=parents")
    assert info.groups == {"c0 of 2": ("c0", "c1"), "c1 of 2": ("c2", "c3")}
    assert info.text("c0 of 2") == "c0 of 2 (sea, ship)"


def test_parents_that_are_not_known_are_an_error(folder):
    message = r"data\.groups: expected .* found parents, but none in .*labels\.json"
    with pytest.raises(ConfigError, match=message):
        described(folder, "data.groups=parents")


def test_a_run_over_a_basis_knows_what_its_rule_moves(folder):
    names, clustering = ("c0", "c1", "c2", "c3"), "0" * 64
    write_grouped(folder / "clustered", names, classifier=clustering)
    rows = [np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.1, 0.0, 0.3, 0.6])]
    basis = Basis.from_rows(rows, names=("qa", "law"), domains=names, clustering=clustering)
    write_basis(folder / "basis.npz", basis)
    clustered = ["data.domains=clustered", "model.sequence_length=4", "mixing.basis=basis.npz"]
    info = described(folder, *clustered)
    assert (info.names, info.basis, info.moved) == (names, ("qa", "law"), ("qa", "law"))


def test_a_run_that_goes_on_may_group_domains_that_left_it(folder):
    (folder / "out").mkdir()
    write_domain_info(folder / "out", DomainInfo(("d0", "gone"), {"gone": "ships"}))
    groups = "data.groups={sea: [gone, d2]}"
    info = described(folder, groups, is_new=False)
    assert info.names == ("d0", "gone", "d1", "d2")
    assert info.groups == {"sea": ("gone", "d2")}
    assert info.labels == {"gone": "ships"}
    with pytest.raises(ConfigError, match="expected the name of a domain, found 'gone'"):
        described(folder, groups, is_new=True)


def test_check_says_how_many_domains_each_group_has(folder):
    config = load_config(write_run(folder), ["data.groups={code: [d2, d0]}"])
    assert "groups      code (2); 1 domain in none" in list(check(config))
