"""Runs side by side, against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.compare import Comparison, Row, Value, compare
from tests.support.histories import run_of, updates_of, weights_of

DGA = {"type": "dga", "step_size": 0.5}
near: Any = pytest.approx
"""Stands for a number in values that are compared."""


def row(found: Comparison, measure: str) -> tuple[Value | None, ...]:
    (cells,) = (each.cells for each in found.rows if each.measure == measure)
    return cells


def means(found: Comparison, measure: str) -> list[float | None]:
    return [None if cell is None else cell.mean for cell in row(found, measure)]


def test_losses_are_the_last_and_the_best_with_its_step():
    first = run_of("uniform", specific={"qa": [3.0, 2.0, 2.5]}, general=[4.0, 3.5, 3.0])
    second = run_of("dga", mixing=DGA, specific={"qa": [2.5, 2.2, 1.5]}, general=[4.0, 3.0, 3.8])
    found = compare([first, second])

    assert [group.name for group in found.groups] == ["uniform", "dga"]
    assert found.tokens == 30 * 32
    assert means(found, "loss (qa)") == [2.5, 1.5]
    assert means(found, "best loss (qa)") == [2.0, 1.5]
    assert means(found, "step of best (qa)") == [20.0, 30.0]
    assert means(found, "loss (general)") == [3.0, 3.8]
    assert means(found, "best loss (general)") == [3.0, 3.0]
    assert means(found, "step of best (general)") == [30.0, 20.0]
    # Best 2.0 at step 20; from 2.2 at 20 to 1.5 at 30 it is 2/7 of the way.
    assert row(found, "tokens to the first's best (qa)") == (
        Value(20 * 32, None, 1),
        Value(near((20 + 10 * 2 / 7) * 32), None, 1),
    )


def test_runs_that_differ_in_seed_and_output_alone_are_one_column():
    losses = ([3.0, 2.0], [3.0, 2.6], [2.8, 2.2])
    seeds = [
        run_of(f"dga-seed{seed}", seed=seed, mixing=DGA, specific={"qa": each})
        for seed, each in enumerate(losses)
    ]
    found = compare([run_of("uniform", specific={"qa": [3.0, 2.8]}), *seeds])

    assert [group.name for group in found.groups] == ["uniform", "dga"]
    uniform, dga = row(found, "loss (qa)")
    assert uniform == Value(2.8, None, 1)
    deviation = math.sqrt((0.2667**2 + 0.3333**2 + 0.0667**2) / 2)
    assert dga == Value(near(6.8 / 3), near(deviation / math.sqrt(3), rel=1e-3), 3)
    # The mean curve: 2.9333, 2.2667; 2.8 is a fifth of the way.
    assert means(found, "tokens to the first's best (qa)") == [640, near(12 * 32)]
    assert found.notes[0] == (
        "dga: mean and standard error over runs/dga-seed0 (seed 0), runs/dga-seed1 (seed 1), "
        "runs/dga-seed2 (seed 2)."
    )


def test_one_seed_twice_gives_errors_that_are_too_small_and_says_so():
    runs = [run_of(name, specific={"qa": [3.0]}) for name in ("a1", "a2")]
    found = compare(runs)
    assert [group.name for group in found.groups] == ["a"]
    assert "a: not all seeds differ, and the errors are too small." in found.notes


def test_runs_of_different_lengths_are_compared_where_both_were_evaluated():
    longer = run_of("long", steps=40, specific={"qa": [3.0, 2.0, 1.0, 0.5]})
    shorter = run_of("short", steps=25, mixing=DGA, specific={"qa": [2.9, 2.1]})
    found = compare([longer, shorter])

    assert found.tokens == 20 * 32
    assert means(found, "loss (qa)") == [2.0, 2.1]
    assert means(found, "best loss (qa)") == [2.0, 2.1]
    assert means(found, "trained tokens") == [40 * 32, 25 * 32]
    assert means(found, "tokens to the first's best (qa)") == [40 * 32, None]
    assert found.notes == (
        "runs/long: not finished, step 40 of 1000.",
        "runs/short: not finished, step 25 of 1000.",
        "Losses, weights and repetition are those after 640 tokens, step 20.",
        "short: has not reached 0.5000 of qa, the best of long, by step 20.",
    )


def test_runs_of_other_batches_are_compared_by_tokens():
    small = run_of("small", specific={"qa": [3.0, 2.0, 1.5, 1.2]})
    training = {"steps": 1000, "global_batch_size": 8}
    large = run_of("large", specific={"qa": [2.5, 1.0]}, more={"training": training})
    found = compare([small, large])

    assert found.tokens == 4 * 10 * 32
    assert means(found, "loss (qa)") == [1.2, 1.0]
    assert (
        "Losses, weights and repetition are those after 1,280 tokens, another step in each."
        in (found.notes)
    )
    # 1.2 is 13/15 of the way from 640 to 1280.
    assert means(found, "tokens to the first's best (qa)")[1] == near(640 + 640 * 13 / 15)


def test_a_run_that_was_never_evaluated_with_the_others_says_where_it_was():
    first = run_of("first", specific={"qa": [3.0, 2.0, 1.5]})
    second = run_of("second", mixing=DGA, specific={"qa": [2.5]}, general=[4.0])
    odd = run_of(
        "odd", specific={"qa": [3.0]}, more={"training": {"steps": 9, "global_batch_size": 6}}
    )
    found = compare([first, second, odd])
    assert found.tokens == 320
    assert means(found, "loss (qa)") == [3.0, 2.5, None]
    assert "runs/odd: was not evaluated then, not before." in found.notes


def test_a_set_that_a_run_does_not_have_is_not_known():
    first = run_of("a", specific={"qa": [3.0, 2.0], "math": [5.0, math.nan]})
    second = run_of("b", mixing=DGA, specific={"code": [1.0, 0.5]})
    found = compare([first, second])
    assert row(found, "loss (qa)")[1] is None
    assert means(found, "loss (math)") == [5.0, None]  # the last that was finite
    assert means(found, "loss (code)") == [None, 0.5]
    measures = [each.measure for each in found.rows]
    assert "loss (general)" not in measures
    assert "tokens to the first's best (code)" not in measures


def test_runs_without_evaluations_are_compared_at_their_ends():
    runs = [
        run_of("a", weights=weights_of([0.5, 0.5], [0.9, 0.1])),
        run_of("b", mixing=DGA, weights=weights_of([0.5, 0.5])),
    ]
    found = compare(runs)
    assert found.tokens is None
    assert [each.cells for each in found.weights] == [
        (Value(0.9, None, 1), Value(0.5, None, 1)),
        (Value(0.1, None, 1), Value(0.5, None, 1)),
    ]
    assert found.notes == ("No run was evaluated: weights are those of each run's last step.",)


def test_weights_are_those_in_force_then_and_the_most_different_come_first():
    names = [f"d{index}" for index in range(10)]
    flat = np.full(10, 0.1)
    tilted = flat + np.array([-9, 8, -7, 6, -5, 4, -3, 2, -0.5, 4.5]) / 100.0
    late = np.eye(10)[0]
    moved = weights_of(flat, tilted, late, late, names=names)  # at steps 0, 10, 20, 30
    runs = [
        run_of("a", specific={"qa": [3.0]}, weights=weights_of(flat, names=names)),
        run_of("b", mixing=DGA, specific={"qa": [3.0, 2.0]}, weights=moved),
    ]
    found = compare(runs)
    assert [each.measure for each in found.weights] == [
        *("d0", "d1", "d2", "d3", "d4", "d9", "d5", "d6")
    ]
    assert found.weights[0] == Row(
        "d0", "weight", (Value(0.1, None, 1), Value(near(0.01), None, 1))
    )


def test_a_single_run_has_its_largest_weights_and_no_differences():
    weights = weights_of([0.2, 0.7, 0.1], names=["a", "b", "c"])
    found = compare([run_of("a", weights=weights)])
    assert [each.measure for each in found.weights] == ["b", "a", "c"]
    assert found.differences == ()


def test_repeated_tokens_are_what_passes_after_the_first_drew():
    run = run_of(
        specific={"qa": [3.0, 2.0]},
        sequences={"few": [20.0, 20.0], "many": [20.0, 20.0]},
        # 10 sequences, and 80.
        epochs={"few": [2.0, 4.0], "many": [0.25, 0.5]},
    )
    assert means(compare([run]), "repeated tokens") == [near(30 / 80)]
    shorter = run_of("short", mixing=DGA, specific={"qa": [3.0]})
    # At step 10: 20 of few, of which 10 again, and 20 of many.
    assert means(compare([run, shorter]), "repeated tokens") == [near(10 / 40), None]


def test_repetition_is_not_known_where_a_domain_has_no_passes():
    run = run_of(sequences={"a": [20.0], "b": [20.0]}, epochs={"a": [2.0]})
    assert all(each.measure != "repeated tokens" for each in compare([run]).rows)


def test_overhead_is_of_all_updates():
    updates = updates_of(0.1, [0.1, 0.2], [1.0, 3.0])
    found = compare([run_of("a"), run_of("b", mixing=DGA, updates=updates)])
    assert means(found, "predicted overhead") == [None, near(0.1)]
    assert means(found, "observed overhead") == [None, near(4 / 25)]


def test_configurations_differ_key_by_key():
    probe = {"type": "directional", "sequences_per_domain": 2}
    found = compare([run_of("a", seed=1), run_of("b", mixing={**DGA, "probe": probe})])
    assert {each.key: each.values for each in found.differences} == {
        "mixing.type": ("static", "dga"),
        "mixing.step_size": ("-", "0.5"),
        "mixing.probe.type": ("-", "directional"),
        "mixing.probe.sequences_per_domain": ("-", "2"),
    }


def test_groups_of_one_name_are_told_apart_by_their_folders():
    first = run_of("dga")
    second = run_of("old/dga", mixing=DGA)
    assert [group.name for group in compare([first, second]).groups] == [*("runs/dga", "old/dga")]


def test_a_folder_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match="runs/run: expected each run once, found it twice"):
        compare([run_of(), run_of()])
