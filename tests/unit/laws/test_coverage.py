import numpy as np
import pytest

from megadga.laws.coverage import distance_from_averages, find_extrapolation

SEEN = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])


def test_an_average_of_the_runs_is_not_extrapolated_to():
    mixture = np.array([0.5, 0.3, 0.2]) @ SEEN
    assert distance_from_averages(mixture, SEEN) == pytest.approx(0.0, abs=1e-5)
    assert list(find_extrapolation(mixture, SEEN, "abc")) == []


def test_a_domain_outside_of_its_range_is_named():
    lines = list(find_extrapolation(np.array([0.9, 0.1, 0.0]), SEEN, ("web", "code", "books")))
    assert lines[0] == "extrapolates: web has 0.900, and had 0.100 to 0.800 in the runs"
    assert lines[1] == "extrapolates: books has 0.000, and had 0.100 to 0.800 in the runs"
    assert "is 0.100 away" in lines[2]


def test_a_combination_that_no_average_has_is_found_within_all_ranges():
    seen = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    (line,) = find_extrapolation(np.array([0.5, 0.0, 0.5, 0.0]), seen, "abcd")
    # The nearest average is uniform.
    assert line.startswith("extrapolates: the nearest average of the runs' mixtures is 0.500 away")
