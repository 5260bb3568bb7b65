"""Each rule on a training run of which the best mixture is known."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megadga.arrays import FloatArray
from megadga.mixers.base import average_weights
from megadga.mixers.dga import Dga
from megadga.mixers.doge import Doge
from megadga.mixers.doremi import Doremi
from megadga.mixers.grape import Grape
from megadga.mixers.importance import importance_weights
from megadga.mixers.odm import Odm
from megadga.mixers.safeguards import total_variation
from megadga.mixers.schedule import replay
from megadga.mixers.scores import AutoStep
from megadga.mixers.static import Static, uniform_weights
from megadga.mixers.targets import OverTargets
from tools.trials.convex import Bed, make_bed, train

BED = make_bed()
NUM_DOMAINS = BED.best.size
UNIFORM = uniform_weights(NUM_DOMAINS)
BEST_LOSS = BED.targets.floors[0]
SKEWED = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])


def target_loss(scheduler, *, target: int = 0) -> float:
    return float(train(BED, scheduler).target_losses[-1, target])


def worst_excess(weights: FloatArray) -> float:
    """How far the domain furthest behind its floor is, trained at fixed weights."""
    losses = train(BED, Static(weights)).domain_losses[-1]
    return float((losses - BED.domains.floors).max())


def with_noise(domain: int) -> Bed:
    """Add one nat to a domain's losses that no training can take off."""
    floors = BED.domains.floors + np.eye(NUM_DOMAINS)[domain]
    return replace(BED, domains=replace(BED.domains, floors=floors))


def test_the_best_mixture_ends_at_the_targets_floor():
    assert target_loss(Static(BED.best)) == pytest.approx(BEST_LOSS, rel=1e-12)


def test_uniform_weights_end_more_than_a_tenth_above():
    assert target_loss(Static(UNIFORM)) > 1.1 * BEST_LOSS


@pytest.mark.parametrize(
    "scheduler",
    [
        Dga(UNIFORM, step_size=0.2),
        Dga(UNIFORM, step_size=0.2, ema=0.1),
        Dga(UNIFORM, step_size=0.2, ema=0.1, score="cosine"),
        Dga(UNIFORM, step_size=AutoStep(spread=0.2), ema=0.1),
        Dga(UNIFORM, step_size=AutoStep(spread=0.2), ema=0.1, max_change=0.02, warmup=5),
        Doge(UNIFORM, step_size=0.2, target="specific"),
    ],
    ids=["dga", "dga with ema", "cosine", "automatic step", "guarded", "doge for a target"],
)
def test_alignment_with_the_target_ends_within_a_twentieth_of_the_best(scheduler):
    assert target_loss(scheduler) < 1.05 * BEST_LOSS


def test_alignment_finds_the_best_mixture_itself():
    found = train(BED, Dga(UNIFORM, step_size=0.2, ema=0.1), updates=2000).weights[-1]
    assert total_variation(found, BED.best) < 0.05


def test_importance_sampling_by_a_wrong_histogram_stays_far_from_the_best():
    names = [f"d{index}" for index in range(NUM_DOMAINS)]
    right = dict(zip(names, BED.best.tolist(), strict=True))
    wrong = dict(zip(names, np.roll(BED.best, 1).tolist(), strict=True))
    assert target_loss(Static(importance_weights(right, names))) < 1.05 * BEST_LOSS
    assert target_loss(Static(importance_weights(wrong, names))) > 1.5 * BEST_LOSS


def test_a_replay_of_a_run_ends_as_the_run_did():
    run = train(BED, Dga(UNIFORM, step_size=0.2))
    again = train(BED, replay(UNIFORM, run.steps, run.weights))
    np.testing.assert_array_equal(again.target_losses, run.target_losses)


@pytest.mark.parametrize("reward", ["importance", "exponential"])
def test_odm_gives_weight_to_noise_and_dga_does_not(reward):
    # The fourth domain's losses, not its gradients, are one nat higher.
    odm, dga = Odm(UNIFORM, reward=reward), Dga(UNIFORM, step_size=0.2)
    with_it, without = (train(bed, odm).weights[-1, 3] for bed in (with_noise(3), BED))
    assert with_it > 1.03 * without
    with_it, without = (train(bed, dga).weights[-1, 3] for bed in (with_noise(3), BED))
    assert with_it == without


def test_odm_knows_no_target():
    assert target_loss(Odm(UNIFORM)) > 1.05 * BEST_LOSS


def test_the_average_of_doremi_brings_the_domain_furthest_behind_closer():
    scheduler = Doremi(UNIFORM, step_size=0.05)
    state, parameters = scheduler.init(), np.zeros(BED.domains.centres.shape[1])
    for step in range(1, 2001):
        parameters = parameters - 0.3 * state.weights @ BED.domains.gradients(parameters)
        state = scheduler.update(state, BED.observe(scheduler.observes, parameters, step))
    assert worst_excess(average_weights(state)) < 0.95 * worst_excess(UNIFORM)


def test_doge_lowers_the_mean_loss_of_all_domains():
    skewed, doge = (
        train(BED, scheduler).domain_losses[-1].mean()
        for scheduler in (Static(SKEWED), Doge(SKEWED, step_size=0.05))
    )
    uniform = train(BED, Static(UNIFORM)).domain_losses[-1].mean()
    assert doge - uniform < 0.5 * (skewed - uniform)


def test_grape_serves_the_worse_of_two_targets_better_than_a_rule_for_one():
    grape = Grape(UNIFORM, np.array([0.5, 0.5]), step_size=0.2, task_step_size=0.2)
    both = train(BED, grape).target_losses[-1].max()
    one = train(BED, Dga(UNIFORM, step_size=0.2)).target_losses[-1].max()
    uniform = train(BED, Static(UNIFORM)).target_losses[-1].max()
    assert both < uniform < one


@pytest.mark.parametrize("ema", [1.0, 0.1])
def test_the_worst_of_two_targets_fares_better_in_max_min_than_in_their_sum(ema):
    of_sum, of_worst = (
        train(BED, OverTargets(Dga(UNIFORM, step_size=0.2, ema=ema), importance, combine))
        .target_losses[-1]
        .max()
        for combine in ("sum", "worst")
        for importance in [np.array([4.0, 1.0])]
    )
    assert of_worst < of_sum


def test_the_plot_of_the_documentation_can_be_drawn_again(tmp_path):
    output = tmp_path / "mixers.svg"
    command = [sys.executable, "tools/plot_mixers.py", "--output", output]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True, timeout=120)
    assert "<svg" in output.read_text()
