"""Rules over basis distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.arrays import FloatArray
from megadga.mixers.base import AlignmentNeeds, Alignments, MixtureState, Scheduler
from megadga.mixers.basis import OverBasis, basis_weights
from megadga.mixers.dga import Dga
from megadga.mixers.odm import Odm
from megadga.mixers.static import Static, uniform_weights
from tests.support.mixtures import identity, mixtures_of
from tests.support.schedulers import Remembering

ROWS = [[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]


def states(rule: Scheduler, updates: list[FloatArray]) -> list[MixtureState]:
    """The states of a run, from the first on."""
    found = [rule.init()]
    for dots in updates:
        found.append(rule.update(found[-1], Alignments(dots, 1.0)))
    return found


@given(
    updates=st.lists(arrays(np.float64, 4, elements=st.floats(-50, 50)), min_size=1, max_size=5),
    ema=st.sampled_from([1.0, 0.3]),
    floor=st.sampled_from([0.0, 0.1]),
)
def test_over_the_identity_a_rule_keeps_its_bits(updates, ema, floor):
    rule = Dga(np.array([0.1, 0.2, 0.3, 0.4]), step_size=0.7, ema=ema, floor=floor)
    over = OverBasis(rule, identity(4))

    for plain, mixed in zip(states(rule, updates), states(over, updates), strict=True):
        np.testing.assert_array_equal(mixed.weights, plain.weights)
        np.testing.assert_array_equal(mixed.averaged_weights, plain.averaged_weights)
        assert mixed.num_updates == plain.num_updates


def test_the_domains_get_the_mixture_of_the_rows():
    rule = Dga(np.array([0.5, 0.5]), step_size=np.log(3.0), ema=0.5)
    first, after = states(OverBasis(rule, mixtures_of(ROWS)), [np.array([0.0, 1.0])])

    np.testing.assert_allclose(first.weights, [0.25, 0.375, 0.375], rtol=1e-15)
    # w becomes (1/4, 3/4), its average (3/8, 5/8).
    np.testing.assert_allclose(after.weights, [1 / 8, 5 / 16, 9 / 16], rtol=1e-14)
    np.testing.assert_allclose(after.averaged_weights, [3 / 16, 11 / 32, 15 / 32], rtol=1e-14)
    weights, averaged = basis_weights(after.memory)
    np.testing.assert_allclose(weights, [0.25, 0.75], rtol=1e-14)
    np.testing.assert_allclose(averaged, [0.375, 0.625], rtol=1e-14)


def test_an_update_that_the_rule_leaves_out_moves_no_domain():
    over = OverBasis(Dga(np.array([0.3, 0.7]), step_size=0.5), mixtures_of(ROWS))
    first, after = states(over, [np.array([np.nan, 1.0])])

    assert (after.num_updates, after.num_skipped) == (0, 1)
    np.testing.assert_array_equal(after.weights, first.weights)


def test_what_the_rule_remembers_reaches_it_again():
    rule = Remembering(2)
    *_, last = states(OverBasis(rule, mixtures_of(ROWS)), [np.array([1.0, 2.0])] * 3)

    np.testing.assert_array_equal(last.memory["rule_sum"], [3.0, 6.0])
    np.testing.assert_array_equal(last.memory["basis_weights"], [0.5, 0.5])


def test_it_asks_for_what_the_rule_needs_of_its_mixtures():
    mixtures = mixtures_of(ROWS)
    rule = Dga(uniform_weights(2), step_size=0.5, score="cosine")

    assert OverBasis(rule, mixtures).observes == AlignmentNeeds(norms=True, mixtures=mixtures)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Static(uniform_weights(2)), "expected one that observes alignments of domains, found N"),
        (Odm(uniform_weights(2)), "expected one that observes alignments of domains, found Loss"),
        (Dga(uniform_weights(3), 0.5), r"expected weights of shape \(2,\), found \(3,\)"),
        (
            OverBasis(Dga(uniform_weights(2), 0.5), identity(2)),
            "expected one that observes alignments of domains, found AlignmentNeeds",
        ),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        OverBasis(rule, mixtures_of(ROWS))
