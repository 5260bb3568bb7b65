import os
import signal
import time

import pytest

from megadga.errors import ConfigError, MegadgaError
from megadga.prepare.workers import Workers, open_processes


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


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("count", [1, 2])
def test_every_item_comes_back_with_its_result(count):
    with open_processes(count) as workers:
        found = dict(workers.map(double, range(20)))
    assert found == {number: 2 * number for number in range(20)}


def test_who_is_free_takes_the_next():
    with open_processes(2) as workers:
        list(workers.map(double, range(2)))  # both have started
        order = [seconds for seconds, _ in workers.map(sleep, [2.0, 0.01, 0.02, 0.03])]
    assert order[-1] == 2.0


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_the_work_surfaces_as_itself(count):
    with (
        open_processes(count) as workers,
        pytest.raises(ConfigError, match="file:3: expected something else"),
    ):
        list(workers.map(refuse, [3]))


def test_a_killed_worker_is_said_to_have_died():
    with (
        open_processes(2) as workers,
        pytest.raises(MegadgaError, match="expected 2 running, found one dead"),
    ):
        list(workers.map(die, [3]))


@pytest.mark.parametrize("count", [1, 2])
def test_who_waits_is_reported_so_now_and_then(count):
    told: list[None] = []
    with open_processes(count) as workers:
        list(workers.map(double, range(3), waiting=lambda: told.append(None)))
    assert told


def test_nothing_is_done_ahead_of_an_error_in_place():
    done: list[int] = []

    def work(number: int) -> int:
        done.append(number)
        return refuse(number) if number == 2 else number

    with pytest.raises(ConfigError):
        list(Workers().map(work, range(5)))
    assert done == [0, 1, 2]


def test_no_worker_is_refused():
    with (
        pytest.raises(ConfigError, match="workers: expected at least 1, found 0"),
        open_processes(0),
    ):
        pass


@pytest.mark.parametrize("count", [1, 2])
def test_results_can_come_in_order(count):
    with open_processes(count) as workers:
        assert list(workers.map_in_order(double, range(20))) == list(range(0, 40, 2))


def test_only_two_items_a_worker_are_taken_ahead():
    taken: list[int] = []
    with open_processes(2) as workers:
        results = workers.map_in_order(double, counted(20, taken))
        next(results)
        assert len(taken) == 4
        assert list(results) == list(range(2, 40, 2))
