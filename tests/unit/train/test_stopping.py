import pytest

from megadga.train.ranks import CollectiveStop


@pytest.mark.parametrize(
    ("own", "others", "agreed"), [(False, 0, False), (True, 0, True), (False, 2, True)]
)
def test_ranks_stop_when_any_of_them_was_asked_to(own, others, agreed):
    stop = CollectiveStop(lambda: own)

    stop.update_from_sum(stop.own() + others)

    assert stop.agreed() is agreed


def test_a_stop_request_persists():
    stop = CollectiveStop(lambda: False)
    for total in (0.0, 1.0, 0.0):
        stop.update_from_sum(total)
    assert stop.agreed()
