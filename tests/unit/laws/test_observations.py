from typing import Any

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.laws.observations import common_tokens, objective_of, observe, read_losses
from megadga.mixers.rule import WeightHistory
from megadga.report.runs import RunHistory
from tests.support.histories import run_of, weights_of

# Of runs of `histories`: an evaluation every ten steps of 4 sequences of 8 tokens.
TOKENS = 320


def swept(name: str, weights: WeightHistory | None = None, **parts: Any) -> RunHistory:
    fixed = weights_of([0.25, 0.75], [0.25, 0.75], names=("b", "a"))
    parts = {"specific": {"qa": [5.0, 4.0]}, "domains": {"b": [4.0, 3.0], "a": [6.0, 2.0]}} | parts
    return run_of(name, weights=fixed if weights is None else weights, **parts)


def test_domains_and_sets_are_in_one_order_whatever_a_run_has():
    (found,) = read_losses([swept("m0")])
    assert found.domains == ("a", "b")
    assert found.weights.tolist() == [0.75, 0.25]
    assert found.sets == ("specific=qa", "domain=a", "domain=b")
    assert found.tokens.tolist() == [TOKENS, 2 * TOKENS]
    assert found.losses.tolist() == [[5.0, 6.0, 4.0], [4.0, 2.0, 3.0]]


def test_runs_are_observed_after_the_most_tokens_that_all_were_evaluated_at():
    longer = swept(
        "m1", specific={"qa": [5.0, 4.5, 3.0]}, domains={"b": [1.0] * 3, "a": [2.0] * 3}
    )
    runs = read_losses([swept("m0"), longer])
    assert common_tokens(runs) == 2 * TOKENS
    assert observe(runs, 2 * TOKENS).losses.tolist() == [[4.0, 2.0, 3.0], [4.5, 2.0, 1.0]]


def test_mixtures_are_counted_and_runs_of_one_have_its_number():
    other = weights_of([0.5, 0.5], names=("a", "b"))
    runs = read_losses([swept("m0"), swept("m1", other), swept("m0-again")])
    first, second, third = observe(runs, TOKENS).mixtures().tolist()
    assert first == third != second


def test_a_run_whose_weights_moved_is_refused():
    moved = weights_of([0.25, 0.75], [0.35, 0.65], names=("b", "a"))
    with pytest.raises(ConfigError, match=r"runs/m0: .* found weights that moved by up to 0.100"):
        read_losses([swept("m0", moved)])


def test_a_run_whose_cap_took_part_in_its_batches_is_refused():
    with pytest.raises(ConfigError, match=r"sampling.max_epochs: .* found 2 with 1.90 epochs"):
        read_losses([swept("m0", max_epochs=2.0, epochs={"a": [0.9, 1.9], "b": [0.1, 0.2]})])
    read_losses([swept("m0", max_epochs=4.0, epochs={"a": [0.9, 1.9], "b": [0.1, 0.2]})])


def test_runs_of_other_sets_are_refused():
    with pytest.raises(ConfigError, match=r"runs/m1: expected the sets specific=qa, domain=a"):
        read_losses([swept("m0"), swept("m1", specific={"code": [5.0, 4.0]})])


def test_general_is_the_mean_of_the_domains():
    sets = ("specific=qa", "domain=a", "domain=b")
    assert objective_of("general", sets).tolist() == [0.0, 0.5, 0.5]
    assert objective_of("domain=b", sets).tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(ConfigError, match=r"expected one of general, specific=qa, .* found 'qa'"):
        objective_of("qa", sets)
    with pytest.raises(ConfigError, match="expected losses of domains for general"):
        objective_of("general", ("specific=qa",))


def test_weights_are_those_of_the_run_to_the_last_bit():
    weights = WeightHistory(("a", "b"), np.array([0]), np.array([[1.0 / 3.0, 2.0 / 3.0]]))
    (found,) = read_losses([swept("m0", weights)])
    assert found.weights.tolist() == [1.0 / 3.0, 2.0 / 3.0]
