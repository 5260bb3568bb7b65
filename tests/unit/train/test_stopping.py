import pytest

from megadga.train.ranks import AgreedStop


@pytest.mark.parametrize(
    ("own", "others", "agreed"), [(False, 0, False), (True, 0, True), (False, 2, True)]
)
def test_ranks_stop_when_any_of_them_was_asked_to(own, others, agreed):
    stop = AgreedStop(lambda: own)

    stop.take_in(stop.own() + others)

    assert stop.agreed() is agreed


def test_a_wish_holds_until_it_is_fulfilled():
    stop = AgreedStop(lambda: False)
    for total in (0.0, 1.0, 0.0):
        stop.take_in(total)
    assert stop.agreed()
