import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megadga.mixers.base import AlignmentNeeds, Alignments
from megadga.mixers.safeguards import signal_to_noise
from tools.trials.convex import make_bed
from tools.trials.sensitivity import EMAS, INTERVALS, Outcome, noise, outcome, table

BED = make_bed()


def test_a_setting_that_finds_the_best_mixture_says_from_where_on():
    found = outcome(BED, 0.2, 5, 1.0, math.inf, num_steps=300)
    assert 0 < found.near_from < 100
    assert 0.0 < found.excess < 0.05


def test_a_setting_that_hardly_moves_is_never_near():
    found = outcome(BED, 1e-6, 5, 1.0, math.inf, num_steps=100)
    assert found.near_from == math.inf
    assert found.excess > 0.3  # uniform weights end a third above


def test_errors_have_the_size_that_the_signal_to_noise_says():
    needs, parameters = AlignmentNeeds(), np.zeros(BED.domains.centres.shape[1])
    exact = BED.observe(needs, parameters, 0)
    assert isinstance(exact, Alignments)
    disturb = noise(BED, 0.5, seed=1)
    errors = []
    for step in range(4000):
        disturbed = disturb(exact, step)
        assert isinstance(disturbed, Alignments)
        errors.append(disturbed.dots - exact.dots)

    # The relative error of a standard deviation of 24,000 normal numbers is 1 / sqrt(48,000).
    deviation = float(np.std(errors))
    spread = np.std(exact.dots, ddof=1)
    assert spread / deviation == pytest.approx(0.5, rel=5 / math.sqrt(48_000))
    # Measured with these errors, the expected variance is the spread's and the errors'.
    total = np.sqrt(spread**2 + deviation**2) / spread
    assert signal_to_noise(exact.dots * total, np.full(6, deviation)) == pytest.approx(
        0.5, rel=0.05
    )


def test_without_noise_alignments_are_exact():
    observed = Alignments(np.array([1.0, 2.0]), 4.0)
    disturbed = noise(BED, math.inf, seed=1)(observed, 3)
    assert isinstance(disturbed, Alignments)
    np.testing.assert_array_equal(disturbed.dots, observed.dots)


def test_a_table_has_a_line_for_each_interval_and_ema():
    outcomes = [Outcome(0.2, t, b, math.inf, math.inf, 0.1234) for t in INTERVALS for b in EMAS]
    lines = list(table(outcomes))
    assert len(lines) == 2 + len(INTERVALS) * len(EMAS)
    assert lines[2] == "| 1 | 0.03 | never, 12 % |"


def test_the_plot_of_the_documentation_can_be_drawn_again(tmp_path):
    output = tmp_path / "sensitivity.svg"
    command = [sys.executable, "tools/plot_sensitivity.py", "--steps", "10", "--output", output]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[3],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert "<svg" in output.read_text()
    assert done.stdout.count("| T_r | β |") == 2
