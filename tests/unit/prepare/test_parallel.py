import os
import signal

import pytest

from megadga.errors import ConfigError, MegadgaError
from megadga.prepare.parallel import OrderedPool


def double(number: int) -> int:
    return 2 * number


def refuse(number: int) -> int:
    raise ConfigError(f"file:{number}: expected something else")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def counted(count: int, taken: list[int]):
    for number in range(count):
        taken.append(number)
        yield number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    with OrderedPool(workers) as pool:
        assert list(pool.map(double, range(20))) == list(range(0, 40, 2))


def test_only_two_items_a_worker_are_taken_ahead():
    taken: list[int] = []
    with OrderedPool(2) as pool:
        results = pool.map(double, counted(20, taken))
        next(results)
        assert len(taken) == 4
        assert list(results) == list(range(2, 40, 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_work_surfaces_as_itself(workers):
    with (
        OrderedPool(workers) as pool,
        pytest.raises(ConfigError, match="file:3: expected something else"),
    ):
        list(pool.map(refuse, [3]))


def test_a_killed_worker_is_said_to_have_died():
    with (
        OrderedPool(2) as pool,
        pytest.raises(MegadgaError, match="expected 2 to live, found one"),
    ):
        list(pool.map(die, [3]))


def test_no_worker_is_refused():
    with pytest.raises(ConfigError, match="workers: expected at least 1, found 0"):
        OrderedPool(0)
