"""Distributions over the domains as sparse rows."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.base import Alignments, Mixtures
from megadga.mixers.basis import OverBasis
from megadga.mixers.dga import Dga
from megadga.mixers.static import uniform_weights
from tests.support.mixtures import identity, mixtures_of


@st.composite
def bases(draw):
    """Dense rows with zeros in them, and two distributions over the rows."""
    num_rows, num_domains = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    masses = draw(
        arrays(np.float64, (num_rows, num_domains), elements=st.sampled_from([0.0, 0.2, 1.0, 3.7]))
    )
    masses[:, draw(st.integers(0, num_domains - 1))] = 1.0
    weights = draw(arrays(np.float64, (2, num_rows), elements=st.floats(1e-9, 1.0)))
    return (
        masses / masses.sum(axis=1, keepdims=True),
        weights / weights.sum(axis=1, keepdims=True),
    )


@given(bases())
def test_a_mixture_is_the_weighted_sum_of_the_rows(basis):
    rows, (weights, _) = basis
    found = mixtures_of(rows).mix(weights)

    np.testing.assert_allclose(found, weights @ rows, rtol=0, atol=1e-15)
    assert (found >= 0.0).all()
    assert abs(found.sum() - 1.0) < 2e-12
    assert (found[(rows == 0.0).all(axis=0)] == 0.0).all()


@given(bases())
def test_mixtures_of_weights_are_mixtures_of_their_mixtures(basis):
    rows, (first, second) = basis
    mixtures = mixtures_of(rows)

    np.testing.assert_allclose(
        mixtures.mix(0.25 * first + 0.75 * second),
        0.25 * mixtures.mix(first) + 0.75 * mixtures.mix(second),
        rtol=0,
        atol=1e-15,
    )


def test_the_identity_gives_the_bits_of_the_weights():
    weights = np.random.default_rng(1).dirichlet(np.ones(50))
    np.testing.assert_array_equal(identity(50).mix(weights), weights)


def test_a_row_is_its_domains_and_their_shares():
    mixtures = mixtures_of([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])

    domains, shares = mixtures.row(0)

    assert domains.tolist() == [1, 2]
    assert shares.tolist() == [0.25, 0.75]
    assert mixtures.rows.tolist() == [0, 0, 1]
    assert mixtures.num_entries == 3


def test_an_update_of_many_domains_makes_nothing_of_the_size_of_a_dense_basis():
    num_rows, num_domains, entries = 64, 262_144, 2_000
    rng = np.random.default_rng(1)
    indices = np.concatenate(
        [np.sort(rng.choice(num_domains, entries, replace=False)) for _ in range(num_rows)]
    )
    mixtures = Mixtures(
        tuple(f"r{i}" for i in range(num_rows)),
        num_domains,
        np.arange(num_rows + 1) * entries,
        indices,
        np.full(indices.size, 1.0 / entries),
    )
    rule = OverBasis(Dga(uniform_weights(num_rows), step_size=0.5, ema=0.1), mixtures)
    state, observed = rule.init(), Alignments(rng.normal(size=num_rows), 1.0)

    tracemalloc.start()
    try:
        after = rule.update(state, observed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after.num_updates == 1
    # Both mixtures of K numbers, and a few arrays of one number an entry: 8 MB, of 134 MB.
    assert peak < 8 * (3 * num_domains + 8 * mixtures.num_entries) < 8 * num_rows * num_domains / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, r"indptr: expected the shape \(1,\) for 0 names, found \(3,\)"),
        ({"indptr": np.array([0, 3])}, r"indptr: expected the shape \(3,\) for 2 names"),
        ({"indptr": np.array([0, 3, 3])}, "indptr: expected to ascend from 0 to 3"),
        ({"indptr": np.array([0, 2, 4])}, "indptr: expected to ascend from 0 to 3"),
        ({"indices": np.array([0, 1])}, r"indices: expected the shape \(3,\) of data"),
        ({"indices": np.array([0, 3, 1])}, r"indices: a: expected to ascend in \[0, 3\)"),
        ({"indices": np.array([1, 0, 1])}, r"indices: a: expected to ascend in \[0, 3\)"),
        ({"data": np.array([1.0, 0.0, 1.0])}, r"data: a: expected values in \(0, 1\]"),
        ({"data": np.array([0.5, np.nan, 1.0])}, r"data: a: expected values in \(0, 1\]"),
        ({"data": np.array([0.5, 0.5, 0.9])}, "data: b: expected a sum of 1, found 0.9"),
    ],
)
def test_what_is_no_basis_is_refused(change, message):
    arguments: dict[str, Any] = {
        "names": ("a", "b"),
        "num_domains": 3,
        "indptr": np.array([0, 2, 3]),
        "indices": np.array([0, 1, 1]),
        "data": np.array([0.5, 0.5, 1.0]),
    }
    Mixtures(**arguments)
    with pytest.raises(ValueError, match=f"^mixtures: {message}"):
        Mixtures(**(arguments | change))
