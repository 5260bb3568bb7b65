"""What is told of an update, by name."""

from dataclasses import replace

import numpy as np
import pytest

from megadga.mixing.dga import Dga
from megadga.mixing.doge import Doge
from megadga.mixing.over_basis import OverBasis
from megadga.mixing.scheduler import Alignments
from megadga.mixing.static import uniform_weights
from megadga.plugin.records import MOST_DOMAINS, UpdateRecords
from tests.support.mixtures import mixtures_of

BASIS = ("qa", "code")
OF_DOMAINS = {"weights", "averaged_weights", "epochs"}


def record_over(num_domains: int):
    rows = np.zeros((2, num_domains))
    rows[0, 0], rows[1, 1] = 1.0, 1.0
    rule = OverBasis(Dga(uniform_weights(2), step_size=0.5), mixtures_of(rows, BASIS))
    alignments = Alignments(np.array([1.0, 2.0]), 4.0, standard_errors=np.array([0.1, 0.2]))
    domains = tuple(f"c{i}" for i in range(num_domains))
    records = UpdateRecords(domains, rule.observes)
    weights = records.weights(rule.init(), np.zeros(num_domains))
    return {**records.alignments(alignments), **weights}


def test_a_basis_is_told_beside_the_domains():
    record = record_over(3)

    assert record["alignments"] == {"qa": 1.0, "code": 2.0}
    assert record["standard_errors"] == {"qa": 0.1, "code": 0.2}
    assert record["basis_weights"] == {"qa": 0.5, "code": 0.5}
    assert record["basis_averaged_weights"] == {"qa": 0.5, "code": 0.5}
    assert record["averaged_weights"] == {"c0": 0.5, "c1": 0.5, "c2": 0.0}


def test_a_mean_of_the_weights_is_told_where_a_rule_keeps_one():
    doge, dga = (rule(uniform_weights(2), step_size=0.5) for rule in (Doge, Dga))
    moved = replace(doge.init(), weights=np.array([1.0, 0.0]))

    told = UpdateRecords(("a", "b"), doge.observes).weights(moved, np.zeros(2))

    assert told["mean_weights"] == {"a": 0.5, "b": 0.5}
    assert told["weights"] == {"a": 1.0, "b": 0.0}
    plain = UpdateRecords(("a", "b"), dga.observes).weights(dga.init(), np.zeros(2))
    assert "mean_weights" not in plain


@pytest.mark.parametrize(("target", "name"), [("domains", "mean"), ("specific", "specific")])
def test_the_norm_of_what_domains_are_compared_with_is_told_under_its_name(target, name):
    rule = Doge(uniform_weights(2), step_size=0.5, target=target)
    record = UpdateRecords(("a", "b"), rule.observes).alignments(
        Alignments(np.array([1.0, 2.0]), 4.0, np.array([9.0, 16.0]))
    )

    assert record[f"{name}_gradient_norm"] == 2.0
    assert record["gradient_norms"] == {"a": 3.0, "b": 4.0}


def test_too_many_domains_are_left_to_their_basis():
    assert record_over(MOST_DOMAINS).keys() >= OF_DOMAINS
    assert not record_over(MOST_DOMAINS + 1).keys() & OF_DOMAINS
