"""What updates observe besides gradients."""

import numpy as np
import pytest

from megadga.plugin.observing import TrainingLosses


def seen(observer, *, step):
    return observer.take(step)


def test_losses_are_means_over_the_steps_since_the_last_update():
    observer = TrainingLosses(3)
    observer.add(np.array([0, 2, 0]), np.array([1.0, 8.0, 2.0]))
    observer.add(np.array([0, 0]), np.array([3.0, 6.0]))
    first = seen(observer, step=2)
    observer.add(np.array([1]), np.array([5.0]))
    second = seen(observer, step=3)

    assert (first.losses.tolist(), first.counts.tolist(), first.step) == ([3, 0, 8], [4, 0, 1], 2)
    assert (second.losses.tolist(), second.counts.tolist()) == ([0, 5, 0], [0, 1, 0])


def test_losses_are_means_over_targets_where_sequences_differ_in_their_number():
    observer = TrainingLosses(3, reference=True)
    reference = np.array([2.0, 8.0, 4.0])
    observer.add(np.array([0, 2, 0]), np.array([1.0, 8.0, 2.0]), reference, np.array([1, 5, 3]))
    found = seen(observer, step=1)

    assert found.losses.tolist() == [7 / 4, 0.0, 8.0]
    assert found.counts.tolist() == [4, 0, 5]
    assert found.reference_losses is not None
    assert found.reference_losses.tolist() == [14 / 4, 0.0, 8.0]
    with pytest.raises(ValueError, match=r"num_targets of shape \(2,\), found \(1,\)"):
        observer.add(np.array([0, 1]), np.ones(2), np.ones(2), np.ones(1, dtype=np.int64))


def test_a_resumed_run_keeps_its_accumulated_losses():
    before, after = TrainingLosses(2), TrainingLosses(2)
    before.add(np.array([0, 1]), np.array([0.1, 0.7]))
    after.load_state_dict(before.state_dict())
    for observer in (before, after):
        observer.add(np.array([0]), np.array([0.2]))

    assert seen(before, step=2).losses.tolist() == seen(after, step=2).losses.tolist()


def test_missing_loss_reports_are_an_error():
    with pytest.raises(ValueError, match="observe_losses: expected the losses"):
        TrainingLosses(2).take(1)


@pytest.mark.parametrize(
    ("domains", "losses", "found"),
    [([0, 1], [1.0], r"found \(2,\) and \(1,\)"), ([0, 2], [1.0, 1.0], "found 0 to 2")],
)
def test_losses_of_an_invalid_domain_are_refused(domains, losses, found):
    with pytest.raises(ValueError, match=found):
        TrainingLosses(2).add(np.array(domains), np.array(losses))


def test_a_reference_has_means_over_the_same_sequences():
    before, after = (TrainingLosses(3, reference=True) for _ in range(2))
    before.add(np.array([0, 2, 0]), np.ones(3), np.array([1.0, 8.0, 3.0]))
    after.load_state_dict(before.state_dict())
    after.add(np.array([0]), np.ones(1), np.array([5.0]))

    first, second = seen(after, step=2), None
    after.add(np.array([1]), np.ones(1), np.array([4.0]))
    second = seen(after, step=3)

    assert first.reference_losses is not None
    assert second.reference_losses is not None
    assert first.reference_losses.tolist() == [3.0, 0.0, 8.0]
    assert second.reference_losses.tolist() == [0.0, 4.0, 0.0]


@pytest.mark.parametrize(
    ("reference", "found"), [(None, "found None"), (np.ones(1), r"found \(1,\)")]
)
def test_missing_reference_losses_are_refused(reference, found):
    observer = TrainingLosses(2, reference=True)
    with pytest.raises(ValueError, match=rf"a reference model's losses of shape \(2,\), {found}"):
        observer.add(np.array([0, 1]), np.ones(2), reference)


def test_reference_losses_are_ignored_if_not_needed():
    observer = TrainingLosses(1)
    observer.add(np.array([0]), np.ones(1), np.array([7.0]))

    assert seen(observer, step=1).reference_losses is None
    assert observer.state_dict().keys() == {"loss_sums", "loss_counts"}
