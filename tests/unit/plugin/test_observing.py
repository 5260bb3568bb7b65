"""What updates observe besides gradients."""

import numpy as np
import pytest

from megadga.mixing.scheduler import DomainLosses
from megadga.plugin.observing import LossObserver


def seen(observer, *, step):
    observed = observer.observe(0, step)
    assert isinstance(observed, DomainLosses)
    return observed


def test_losses_are_means_over_the_steps_since_the_last_update():
    observer = LossObserver(3)
    observer.add(np.array([0, 2, 0]), np.array([1.0, 8.0, 2.0]))
    observer.add(np.array([0, 0]), np.array([3.0, 6.0]))
    first = seen(observer, step=2)
    observer.add(np.array([1]), np.array([5.0]))
    second = seen(observer, step=3)

    assert (first.losses.tolist(), first.counts.tolist(), first.step) == ([3, 0, 8], [4, 0, 1], 2)
    assert (second.losses.tolist(), second.counts.tolist()) == ([0, 5, 0], [0, 1, 0])


def test_a_resumed_run_goes_on_adding_where_it_was():
    before, after = LossObserver(2), LossObserver(2)
    before.add(np.array([0, 1]), np.array([0.1, 0.7]))
    after.load_state_dict(before.state_dict())
    for observer in (before, after):
        observer.add(np.array([0]), np.array([0.2]))

    assert seen(before, step=2).losses.tolist() == seen(after, step=2).losses.tolist()


def test_a_loop_that_tells_no_losses_is_told():
    with pytest.raises(ValueError, match="observe_losses: expected the losses"):
        LossObserver(2).observe(0, 1)


@pytest.mark.parametrize(
    ("domains", "losses", "found"),
    [([0, 1], [1.0], r"found \(2,\) and \(1,\)"), ([0, 2], [1.0, 1.0], "found 0 to 2")],
)
def test_losses_that_belong_to_no_domain_are_refused(domains, losses, found):
    with pytest.raises(ValueError, match=found):
        LossObserver(2).add(np.array(domains), np.array(losses))
