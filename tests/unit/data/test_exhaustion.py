"""When domains run out."""

import numpy as np

from megadga.data.exhaustion import ended_first_epochs, exhaustion_steps
from megadga.data.order import WindowOrder
from megadga.data.sampler import MixtureSampler


def test_what_is_left_of_an_epoch_lasts_as_many_steps_as_it_is_drawn_in():
    epochs, windows = np.array([0.5, 0.0, 1.25, 0.9]), np.array([100.0, 7.0, 10.0, 10.0])
    rates = np.array([8.0, 2.0, 1.0, 0.0])

    steps = exhaustion_steps(epochs, windows, rates, step=10)

    # 50 windows by 8 a step: 6.25 steps; 7 by 2; past its end already; never drawn
    assert steps.tolist() == [17.0, 14.0, 10.0, np.inf]


def test_the_end_of_a_later_epoch_is_asked_for_by_its_number():
    one = np.array([1.0])
    assert exhaustion_steps(one * 1.5, one * 40, one * 4, step=3, passes=3.0).tolist() == [18.0]


def test_a_prediction_at_constant_weights_is_the_step_at_which_the_sampler_gets_there():
    sizes, weights, batch = np.array([37, 200, 64]), np.array([0.5, 0.25, 0.25]), 8
    sampler = MixtureSampler(WindowOrder.of(sizes), global_batch_size=batch, seed=3)
    expected = exhaustion_steps(np.zeros(3), sizes * 1.0, batch * weights, step=0)
    state, reached = sampler.init(), np.zeros(3)
    for step in range(1, 150):
        plan = sampler.plan(state, weights)
        state = plan.state_after
        ended = ended_first_epochs(sampler.order, state.cursors, plan.selection.domains)
        assert not reached[ended].any()  # once
        reached[ended] = step

    assert reached.tolist() == expected.tolist()


def test_the_second_epoch_of_a_domain_ends_without_notice():
    order = WindowOrder.of(np.array([4, 4]))
    drawn = np.array([0, 0, 1])

    assert ended_first_epochs(order, np.array([8, 4]), drawn).tolist() == [1]


def test_a_domain_that_has_grown_ends_its_epoch_with_the_windows_that_it_has():
    grown = WindowOrder.of(np.array([4, 4])).revised(
        np.array([3, 9]), np.array([0, 1]), np.array([6, 6])
    )
    cursors = grown.cursors

    # The first has 3 of 6 windows left in its first epoch, the second is in its third.
    after = cursors + np.array([3, 5])
    assert ended_first_epochs(grown.order, after - [1, 0], np.array([0] * 2)).tolist() == []
    assert ended_first_epochs(grown.order, after, np.array([0, 1, 1, 1, 1, 1])).tolist() == [0]
