import json

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.domains import DomainInfo, read_domain_info, write_domain_info

INFO = DomainInfo(
    ("c0", "c1", "c2", "c3"),
    {"c0": "cell, protein", "code": "def, return"},
    {"code": ("c2", "c0")},
    {"c0": ("The cell", "A protein")},
)


def summed(values, **options):
    return INFO.group(INFO.names, **options).sum(np.array(values))


def test_weights_are_summed_over_groups_and_the_rest_comes_last():
    assert INFO.group(INFO.names).names == ("code", "other")
    np.testing.assert_array_equal(summed([[0.5, 0.25, 0.125, 0.125]]), [[0.625, 0.375]])


def test_domains_in_no_group_may_be_shown_as_themselves():
    assert INFO.group(INFO.names, other=None).names == ("code", "c1", "c3")
    np.testing.assert_array_equal(summed([1.0, 2.0, 4.0, 8.0], other=None), [5.0, 2.0, 8.0])


def test_columns_may_be_some_of_the_domains_in_any_order():
    groups = INFO.group(("c3", "c2"))
    assert groups.names == ("code", "other")
    np.testing.assert_array_equal(groups.sum(np.array([1.0, 2.0])), [2.0, 1.0])


def test_without_groups_all_domains_are_shown_as_themselves():
    info = DomainInfo(("b", "a"))
    groups = info.group(info.names, other=None)
    assert groups.names == ("b", "a")
    np.testing.assert_array_equal(groups.members, [0, 1])


def test_the_alignment_of_a_group_is_that_of_the_mixture_of_its_domains():
    """Gradients are linear: a = <sum_i w_i g_i / sum_i w_i, g>."""
    rng = np.random.default_rng(3)
    gradients, target = rng.normal(size=(4, 7)), rng.normal(size=7)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    mixture = (0.1 * gradients[0] + 0.3 * gradients[2]) / 0.4
    found = INFO.group(INFO.names).mean(gradients @ target, weights)
    assert found[0] == pytest.approx(mixture @ target, rel=1e-12)


def test_the_general_loss_is_the_mean_of_the_groups_losses_by_their_numbers_of_domains():
    losses = np.array([3.0, 4.0, 6.0, 7.0])
    grouped = INFO.group(INFO.names).mean(losses, np.ones(4))
    np.testing.assert_array_equal(grouped, [4.5, 5.5])
    assert np.average(grouped, weights=[2, 2]) == losses.mean()


def test_standard_errors_of_a_group_are_those_of_a_weighted_mean():
    errors, shares = np.array([3.0, 1.0, 4.0, 1.0]), np.array([0.5, 0.1, 0.5, 0.1])
    found = INFO.group(INFO.names).standard_errors(errors, shares)
    np.testing.assert_allclose(found, [2.5, np.sqrt(0.5)], rtol=1e-15)


def test_domains_that_were_not_there_are_left_out():
    values = np.array([[1.0, 5.0, np.nan, 7.0], [np.nan, 5.0, np.nan, np.nan]])
    groups = INFO.group(INFO.names)
    np.testing.assert_array_equal(groups.sum(values), [[1.0, 12.0], [np.nan, 5.0]])
    np.testing.assert_array_equal(groups.mean(values, np.ones(4)), [[1.0, 6.0], [np.nan, 5.0]])


def test_a_group_without_any_share_has_no_mean():
    found = INFO.group(INFO.names).mean(np.ones((1, 4)), np.array([0.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(found, [[np.nan, 1.0]])


def test_shares_may_differ_between_steps():
    values, shares = np.array([[1.0, 0, 3.0, 0]] * 2), np.array([[1.0, 1, 3.0, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(
        INFO.group(INFO.names).mean(values, shares), [[2.5, 0.0], [2.0, 0.0]]
    )


def test_sums_over_thousands_of_domains_are_those_of_each_group():
    names = tuple(f"c{number:04d}" for number in range(4096))
    members = {f"g{group}": names[group::64] for group in range(64)}
    values = np.random.default_rng(5).random((20, 4096))
    groups = DomainInfo(names, {}, members).group(names)
    assert groups.names == tuple(members)
    expected = values.reshape(20, 64, 64).sum(axis=1)
    np.testing.assert_allclose(groups.sum(values), expected, rtol=1e-12)


def test_a_name_is_shown_with_its_label():
    assert INFO.text("c0") == "c0 (cell, protein)"
    assert INFO.text("code") == "code (def, return)"
    assert INFO.text("c1") == "c1"


def test_a_runs_folder_keeps_what_its_domains_are(tmp_path):
    info = DomainInfo(INFO.names, INFO.labels, INFO.groups, INFO.examples, ("qa", "lâw"))
    write_domain_info(tmp_path, info)
    assert read_domain_info(tmp_path) == info
    assert info.moved == ("qa", "lâw")
    assert INFO.moved == INFO.names


def test_domains_that_left_a_run_keep_their_label_and_their_group():
    later = DomainInfo(("c1", "c4"), {"c4": "law"}, {"code": ("c4",), "new": ("c1",)})
    joined = INFO.followed_by(later)
    assert joined.names == ("c0", "c1", "c2", "c3", "c4")
    assert joined.labels == {**INFO.labels, "c4": "law"}
    assert joined.groups == {"code": ("c4", "c2", "c0"), "new": ("c1",)}
    assert joined.examples == INFO.examples


def test_a_domain_that_left_is_in_the_group_that_names_it_now():
    later = DomainInfo(("c1",), {}, {"code": ("c1",), "gone": ("c0",)})
    assert INFO.followed_by(later).groups == {"code": ("c1", "c2"), "gone": ("c0",)}


def test_runs_of_earlier_versions_have_the_names_in_their_metrics(tmp_path):
    records = [
        {"type": "event", "step": 0, "event": "start", "averaged_weights": {"b": 0.5, "a": 0.5}},
        {"type": "update", "step": 2, "averaged_weights": {"b": 0.5, "c": 0.5}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    assert read_domain_info(tmp_path) == DomainInfo(("b", "a", "c"))


def test_runs_of_earlier_versions_over_a_basis_have_its_names(tmp_path):
    record = {"type": "update", "step": 2, "basis_averaged_weights": {"qa": 0.5, "law": 0.5}}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(record)}\n")
    assert read_domain_info(tmp_path) == DomainInfo((), basis=("qa", "law"))


def test_a_folder_that_is_no_runs_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: expected a run's metrics, found"):
        read_domain_info(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"domains\.json: version: expected 1, found 2"),
        ({"names": [1]}, r"domains\.json: names\[0\]: expected str, found int 1"),
        ({"labels": {"a": None}}, r"domains\.json: labels: a: expected str"),
        ({"groups": {"g": "a"}}, r"domains\.json: groups\.g: expected a list, found str"),
        ({"colours": {}}, r"domains\.json: .* unknown: colours"),
    ],
)
def test_damage_of_the_file_is_named(tmp_path, change, message):
    write_domain_info(tmp_path, INFO)
    path = tmp_path / "domains.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        read_domain_info(tmp_path)
