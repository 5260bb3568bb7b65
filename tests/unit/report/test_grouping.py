from dataclasses import replace

import numpy as np
import pytest

from megadga.report.grouping import config_differences, group_runs, mean_over_runs, run_names
from megadga.report.runs import Series, read_run
from tests.support.report_runs import MadeRun, write_run_folder

RUN = MadeRun(("a", "b"), steps=5)


def made(path, run=RUN):
    return read_run(write_run_folder(path, run))


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path):
    runs = [
        made(tmp_path / "dga-seed0"),
        made(tmp_path / "uniform", replace(RUN, fixed=True)),
        made(tmp_path / "dga-seed1", replace(RUN, seed=1)),
    ]
    groups = group_runs(runs)
    assert [(group.name, group.members) for group in groups] == [
        ("dga", (0, 2)),
        ("uniform", (1,)),
    ]


def test_a_group_whose_names_have_nothing_in_common_is_named_after_its_first(tmp_path):
    runs = [made(tmp_path / "x"), made(tmp_path / "y", replace(RUN, seed=1))]
    assert [group.name for group in group_runs(runs)] == ["x and other seeds"]


def test_runs_of_equal_names_are_told_apart_by_their_parents(tmp_path):
    runs = [made(tmp_path / parent / "run") for parent in ("a", "b")]
    assert run_names(runs) == ("a/run", "b/run")


def test_one_run_given_twice_has_two_names(tmp_path):
    run = made(tmp_path / "run")
    assert run_names([run, run]) == ("run (1)", "run (2)")


def test_differences_are_the_keys_with_other_values(tmp_path):
    runs = [made(tmp_path / "a"), made(tmp_path / "b", replace(RUN, fixed=True, seed=4))]
    differences = config_differences(runs)
    assert set(differences) == {"seed", "output", "mixing.type", "mixing.interval"}
    assert differences["seed"] == (0, 4)
    assert differences["mixing.interval"] == (5, None)


def test_a_mean_is_over_the_steps_that_all_have():
    first = Series(("loss",), np.array([1, 2, 3]), np.array([[1.0], [2.0], [3.0]]))
    second = Series(("loss",), np.array([2, 3, 4]), np.array([[4.0], [9.0], [5.0]]))
    mean = mean_over_runs([first, second])
    assert mean.mean.steps.tolist() == [2, 3]
    assert mean.mean.values.tolist() == [[3.0], [6.0]]
    # s / sqrt(n) of two numbers is half of their distance.
    np.testing.assert_allclose(mean.errors, [[1.0], [3.0]])


def test_one_run_has_no_error():
    series = Series(("loss",), np.array([1]), np.array([[1.0]]))
    assert np.isnan(mean_over_runs([series]).errors).all()


@pytest.mark.parametrize("name", ["seed", "output"])
def test_where_a_run_is_and_its_seed_do_not_separate_it(tmp_path, name):
    runs = [made(tmp_path / "a"), made(tmp_path / "b", replace(RUN, seed=1))]
    assert name in config_differences(runs)
    assert len(group_runs(runs)) == 1
