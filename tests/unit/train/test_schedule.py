import pytest
import torch

from megadga.train.engine import WarmupStableDecay

SCHEDULE = WarmupStableDecay(
    total_num_steps=10, warmup_num_steps=2, decay_num_steps=4, warmup_min_ratio=0.5, min_ratio=0.2
)


def test_the_learning_rate_warms_up_stays_and_decays():
    factors = [SCHEDULE(step) for step in range(12)]

    assert factors == pytest.approx([0.5, 0.75, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_no_warm_up_and_no_decay_is_constant():
    constant = WarmupStableDecay(total_num_steps=3, warmup_num_steps=0, decay_num_steps=0)

    assert [constant(step) for step in range(5)] == [1.0] * 5


def test_a_scheduler_made_of_it_continues_from_its_saved_state():
    def scheduler():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3.0)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULE)

    def rates(optimizer, schedule, steps):
        for _ in range(steps):
            optimizer.step()
            schedule.step()
            yield schedule.get_last_lr()[0]

    optimizer, whole = scheduler()
    expected = list(rates(optimizer, whole, 8))
    optimizer, first = scheduler()
    head = list(rates(optimizer, first, 3))
    optimizer, second = scheduler()
    second.load_state_dict(first.state_dict())

    assert head + list(rates(optimizer, second, 5)) == expected
