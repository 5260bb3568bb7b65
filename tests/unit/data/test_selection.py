import numpy as np
import pytest

from megadga.data.sampler import Selection


def test_a_selection_has_the_length_of_its_arrays():
    assert len(Selection(np.array([0, 1, 1]), np.array([7, 0, 3]))) == 3


def test_arrays_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(N,\), found \(2,\) and \(3,\)"):
        Selection(np.zeros(2, dtype=np.int64), np.zeros(3, dtype=np.int64))
