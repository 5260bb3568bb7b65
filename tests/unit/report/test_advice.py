"""What is said about a run, on both sides of every threshold."""

import numpy as np
import pytest

from megadga.report.advice import (
    CHECKS,
    LEAK_FALL,
    MANY_PASSES,
    MIN_EVALUATIONS,
    MIN_UPDATES,
    RISE,
    Finding,
    Unjudged,
    findings,
    judge,
)
from tests.support.histories import alignments_of, run_of, updates_of, weights_of

DGA = {"type": "dga", "step_size": 0.5, "ema": 1.0, "interval": 4, "filtered": False}
FALLING = [4.0, 3.0, 2.5, 2.2, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]


def only(run) -> Finding:
    (finding,) = findings(run)
    return finding


def codes(run) -> list[str]:
    return [each.code for each in findings(run)]


def lacking(run) -> dict[str, str]:
    return {each.code: each.text for each in judge(run) if isinstance(each, Unjudged)}


def dots_of(number: int, *, signal: float, num_domains: int = 8, seed: int = 0):
    """Alignments of standard error 1 whose true values have the deviation ``signal``."""
    true = np.linspace(-1.0, 1.0, num_domains)
    true *= signal / true.std(ddof=1)
    return true + np.random.default_rng(seed).normal(size=(number, num_domains))


def measured(number: int, *, signal: float, mixing=DGA, errors=1.0, weights=None):
    history = alignments_of(dots_of(number, signal=signal), errors)
    moving = weights_of(*np.linspace([0.5, 0.5], [0.9, 0.1], number + 1))
    return run_of(mixing=mixing, alignments={"qa": history}, weights=weights or moving)


def test_a_run_without_anything_has_no_findings_and_says_what_is_missing():
    assert findings(run_of()) == ()
    assert lacking(run_of()) == {
        "memorised": f"{MIN_EVALUATIONS} evaluations of domains, found 0",
        "runs_out": "passes over domains after a tenth of the run, found none yet",
    }
    assert len(CHECKS) == 8


def test_updates_of_noise_are_named_with_what_would_measure_more():
    mixing = {**DGA, "probe": {"sequences_per_domain": 2}}
    finding = only(measured(64, signal=0.5, mixing=mixing))
    assert (finding.code, finding.step) == ("noise", 640)
    assert "over the last 64 updates" in finding.text
    assert "mixing.probe.sequences_per_domain from 2 to about" in finding.text
    assert "mixing.interval (4)" in finding.text


def test_noise_is_not_told_above_a_signal_of_1_or_from_too_few_updates():
    assert codes(measured(128, signal=1.5)) == []
    assert codes(measured(20, signal=0.0)) == []
    assert lacking(measured(20, signal=0.0))["noise"] == "24 updates, found 20"
    assert codes(measured(24, signal=0.0)) == ["noise"]


def test_without_standard_errors_noise_is_not_judged():
    run = measured(64, signal=0.0, errors=np.nan)
    assert lacking(run)["noise"] == "standard errors of alignments, found none"


def test_filtered_scores_are_judged_by_averages_of_sixteen_updates():
    filtered = {**DGA, "filtered": True}
    assert codes(measured(128, signal=0.5, mixing=filtered)) == []  # 2 in the average
    assert codes(measured(128, signal=0.05, mixing=filtered)) == ["noise"]  # 0.2


def test_of_several_specific_sets_one_with_a_signal_is_enough():
    loud, still = (alignments_of(dots_of(64, signal=s), 1.0) for s in (3.0, 0.0))
    moving = weights_of(*np.linspace([0.5, 0.5], [0.9, 0.1], 65))
    run = run_of(mixing=DGA, weights=moving, alignments={"qa": still, "math": loud})
    assert codes(run) == []


def test_a_step_size_that_moves_nothing_is_named_with_one_that_would():
    still = weights_of(*np.linspace([0.5, 0.5], [0.501, 0.499], 65))
    finding = only(measured(64, signal=3.0, weights=still))
    assert finding.code == "step_size_small"
    assert finding.step == 640
    assert "moved 0.10% of a batch" in finding.text
    # At the end 0.1 % x 1000 / 640; a tenth of a batch takes 64 times the step.
    assert "mixing.step_size from 0.5 to about 32" in finding.text


@pytest.mark.parametrize(
    ("moved", "number", "signal", "found"),
    [
        (0.001, 16, 3.0, ["step_size_small"]),
        (0.001, 15, 3.0, []),
        (0.009, 64, 3.0, []),  # 1.4 % by the end
        (0.001, 64, 0.0, ["noise"]),  # there is nothing to follow
    ],
)
def test_a_step_size_is_too_small_only_where_there_is_something_to_follow(
    moved, number, signal, found
):
    still = weights_of(*np.linspace([0.5, 0.5], [0.5 + moved, 0.5 - moved], number + 1))
    assert codes(measured(number, signal=signal, weights=still)) == found


def test_a_chosen_step_size_is_advised_without_a_number():
    still = weights_of(*[[0.5, 0.5]] * 65)
    mixing = {**DGA, "step_size": {"spread": 0.1}, "ema": 0.001}
    text = only(measured(64, signal=3.0, weights=still, mixing=mixing)).text
    assert text.endswith("raise mixing.step_size, or mixing.ema (0.001).")


def swinging(width: float, number: int = 32):
    ends = [[0.5 + width / 2, 0.5 - width / 2], [0.5 - width / 2, 0.5 + width / 2]]
    return run_of(mixing=DGA, weights=weights_of(*(ends[i % 2] for i in range(number + 1))))


def test_weights_that_swing_are_named():
    finding = only(swinging(0.4))
    assert (finding.code, finding.step) == ("step_size_large", 320)
    assert "each has moved 40% of a batch to other domains, 32 times as far" in finding.text
    assert "mixing.step_size from 0.5 to about 0.031" in finding.text


def test_weights_that_jitter_or_go_one_way_do_not_swing():
    assert codes(swinging(0.04)) == []
    assert codes(swinging(0.4, MIN_UPDATES - 1)) == []
    straight = weights_of(*np.linspace([1.0, 0.0], [0.0, 1.0], 17))  # 6 % an update
    assert codes(run_of(mixing=DGA, weights=straight)) == []


def test_weights_of_a_rule_without_a_step_size_may_swing():
    weights = swinging(0.4).weights
    assert codes(run_of(mixing={"type": "schedule"}, weights=weights)) == []


RISING = [3.0, 2.5, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1]


def test_a_domain_that_is_memorised_is_named_with_both_losses():
    run = run_of(
        steps=100,
        total_steps=100,
        domains={"web": FALLING, "few": RISING},
        trained={"few": FALLING, "web": FALLING},
        epochs={"web": np.linspace(0.1, 1.0, 10), "few": np.linspace(0.35, 3.5, 10)},
    )
    finding = only(run)
    assert (finding.code, finding.step) == ("memorised", 100)
    assert "few (validation loss from 2.40 to 3.10 since step 30, training loss" in finding.text
    assert "from 2.50 to 1.50, 3.5 passes)" in finding.text


@pytest.mark.parametrize(
    ("held_out", "trained", "passes"),
    [
        (RISING, RISING, 3.0),  # the training loss rises, too: weights went elsewhere
        (RISING, FALLING, 1.0),  # no window was seen twice
        ([*RISING[:9], 2.4 + RISE], FALLING, 3.0),  # back again
        ([*RISING[:3], *np.linspace(2.405, 2.44, 7)], FALLING, 3.0),  # hardly risen
        ([3.0, 2.4, 3.2, 2.5, 3.1, 2.6, 3.2, 2.5, 3.1, 3.2], FALLING, 3.0),  # noise
        (FALLING, FALLING, 3.0),
        (RISING[:5], FALLING[:5], 3.0),  # too few evaluations
    ],
)
def test_a_domain_is_memorised_only_if_it_cannot_be_anything_else(held_out, trained, passes):
    epochs = {"few": np.linspace(0.0, passes, len(held_out))}
    run = run_of(steps=90, domains={"few": held_out}, trained={"few": trained}, epochs=epochs)
    assert codes(run) == []


def test_many_memorised_domains_are_counted():
    names = [f"d{index}" for index in range(5)]
    curves = {name: np.add(RISING, index / 10.0) for index, name in enumerate(names)}
    finding = only(run_of(domains=curves, trained=dict.fromkeys(names, FALLING)))
    assert finding.text.count("validation loss") == 3
    assert " and 2 more;" in finding.text


def test_a_domain_that_runs_out_is_named_with_the_step():
    run = run_of(steps=200, epochs={"a": [0.01, 0.02], "few": [0.5, 0.9]})
    finding = only(run)
    # At 0.04 a step: 0.1 takes 2.5 steps from 20 on; 980 steps take 39.2.
    assert (finding.code, finding.step) == ("runs_out", 200)
    assert "few at step 23 (40.1 passes by the end)" in finding.text
    assert "a at" not in finding.text


def test_a_domain_that_has_run_out_is_named_with_the_step_that_was():
    run = run_of(steps=400, epochs={"few": [0.5, 1.5, 2.5]})
    assert "few at step 15 " in only(run).text


def test_a_domain_is_held_against_the_limit_of_passes_if_there_is_one():
    run = run_of(steps=400, max_epochs=2.0, epochs={"few": [0.02, 0.05]})
    text = only(run).text
    assert "sampling.max_epochs (2) before step 1000: few at step 670;" in text
    assert codes(run_of(steps=400, max_epochs=3.0, epochs={"few": [0.02, 0.05]})) == []


def test_a_few_passes_are_no_finding_nor_is_the_beginning_of_a_run():
    passes = 1.09 * MANY_PASSES  # by the end
    few = [passes / 100.0, passes / 50.0]
    assert codes(run_of(steps=200, epochs={"a": few})) == []
    assert codes(run_of(steps=99, epochs={"few": [0.5, 0.9]})) == []


def test_a_general_loss_that_pays_is_named_with_both_losses():
    run = run_of(
        mixing={**DGA, "general_guard": None, "prior_pull": 0.0},
        specific={"qa": FALLING},
        general=RISING,
    )
    finding = only(run)
    assert (finding.code, finding.step) == ("general_pays", 100)
    assert "since step 30 it went from 2.40 to 3.10, and qa went from 2.50 to 1.50" in finding.text
    assert "set mixing.general_guard, or raise mixing.prior_pull (0.0)." in finding.text


@pytest.mark.parametrize(
    ("specific", "general"),
    [
        (RISING, RISING),  # nothing is bought
        (FALLING, FALLING),
        (FALLING, [*RISING[:3], *np.linspace(2.41, 2.49, 7)]),  # less than a guard lets pass
        (FALLING[:5], RISING[:5]),
    ],
)
def test_a_general_loss_pays_only_for_a_specific_one(specific, general):
    assert codes(run_of(specific={"qa": specific}, general=general)) == []


def test_an_additional_set_is_no_reason_for_the_general_loss_to_pay():
    run = run_of(specific={"extra": FALLING}, general=RISING, more={"data": {"specific": {}}})
    assert codes(run) == []


def test_a_guard_that_is_on_is_advised_to_pull_harder():
    mixing = {**DGA, "general_guard": {"max_rise": 0.1, "pull": 0.5}, "floor": 0.0}
    text = only(run_of(mixing=mixing, specific={"qa": FALLING}, general=RISING)).text
    assert text.endswith("raise mixing.general_guard.pull (0.5) or mixing.floor (0.0).")


FLAT = [4.0, 3.0, 2.6, 2.5, 2.48, 2.46, 2.45]
LEAKING = [4.0, 3.0, 2.6, 2.4, 2.0, 1.6, 1.2]


def test_a_specific_set_that_leaks_is_named_with_the_command_that_looks():
    run = run_of(specific={"qa": LEAKING}, domains={"a": FLAT, "b": np.add(FLAT, 1.0)})
    finding = only(run)
    assert (finding.code, finding.step) == ("leak", 70)
    assert "since step 40 qa went from 2.40 to 1.20" in finding.text
    assert "fallen by more than 0.05 (a)" in finding.text
    assert "`megadga check runs/run/config.yaml --leakage`" in finding.text


@pytest.mark.parametrize(
    ("specific", "domains"),
    [
        (LEAKING, LEAKING),  # a domain gains as much: it is like the set
        (LEAKING, np.add(LEAKING, 1.0)),
        (np.add(LEAKING, 2.0), FLAT),  # far above its neighbours
        ([*FLAT[:4], 2.48, 2.45, 2.51 - LEAK_FALL], FLAT),  # little
        ([4.0, 3.0, 2.0, 2.4, 1.6, 2.3, 1.5], FLAT),  # noise
        (LEAKING[:5], FLAT[:5]),
    ],
)
def test_a_set_leaks_only_if_no_domain_explains_it(specific, domains):
    assert codes(run_of(specific={"qa": specific}, domains={"a": domains})) == []


def overheads(factor: float, *, number: int = 33, predicted: float = 0.1, spread: float = 0.1):
    scatter = 1.0 + spread * np.random.default_rng(1).normal(size=number)
    observed = factor * predicted * scatter
    observed[0] = 100.0 * predicted  # the first compiles
    return run_of(mixing=DGA, updates=updates_of(predicted, observed, observed * 10.0))


def test_an_overhead_above_the_prediction_is_named_with_an_interval_that_pays_for_it():
    finding = only(overheads(3.0, spread=0.0))
    assert (finding.code, finding.step) == ("overhead", 330)
    assert "30.0% of the time of training over the last 32 updates" in finding.text
    assert "10.0% was predicted; widen mixing.interval from 4 to 1" in finding.text


@pytest.mark.parametrize(
    "run",
    [
        overheads(1.4),
        overheads(3.0, predicted=0.009),  # less than 2 % of the time
        overheads(3.0, spread=3.0),  # noise
        overheads(3.0, number=MIN_UPDATES),
    ],
)
def test_an_overhead_is_told_only_where_it_is_sure_and_matters(run):
    assert codes(run) == []
