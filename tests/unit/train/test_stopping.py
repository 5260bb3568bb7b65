import pytest

from megadga.train.stopping import AgreedStop
from tests.unit.train.fakes import LoneRank


@pytest.mark.parametrize(
    ("own", "others", "agreed"), [(False, 0, False), (True, 0, True), (False, 2, True)]
)
def test_ranks_stop_when_any_of_them_was_asked_to(own, others, agreed):
    assert AgreedStop(lambda: own, LoneRank(others=others)).agreed() is agreed
