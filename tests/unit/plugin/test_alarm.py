"""When a mixture's collapse is told."""

import numpy as np

from megadga.plugin import CollapseAlarm

EVEN, HALF, ONE = ([0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])


def told(*mixtures, min_effective):
    """The events of the steps after which the weights were the second mixture, the third ..."""
    passed = [np.array(mixtures[0])]
    alarm = CollapseAlarm(lambda: passed[-1], min_effective=min_effective)
    events = []
    for mixture in mixtures[1:]:
        passed.append(np.array(mixture))
        events.append(alarm.after_step(len(events) + 1))
    return events


def test_weights_that_fall_below_the_least_number_of_domains_are_reported_once():
    event = {
        "event": "few_effective_domains",
        "effective_domains": 2.0,
        "min_effective_domains": 3.0,
    }
    assert told(EVEN, EVEN, HALF, ONE, min_effective=3.0) == [{}, {"event": event}, {}]


def test_weights_that_recover_and_fall_again_are_reported_again():
    events = told(EVEN, HALF, EVEN, HALF, min_effective=3.0)
    assert [list(event) for event in events] == [["event"], [], ["event"]]


def test_weights_above_the_threshold_give_no_event():
    assert told(EVEN, HALF, EVEN, min_effective=1.5) == [{}, {}]


def test_a_resumed_run_does_not_tell_the_same_fall_again():
    before = CollapseAlarm(lambda: np.array(ONE), min_effective=3.0)
    low = np.array(EVEN)
    after = CollapseAlarm(lambda: low, min_effective=3.0)
    after.load_state_dict(before.state_dict())
    low = np.array(ONE)
    assert after.after_step(9) == {}
