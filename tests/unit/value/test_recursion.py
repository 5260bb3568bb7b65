"""Values of sequences: against the recursion of the paper, and against leaving sequences out."""

from dataclasses import replace

import numpy as np
import pytest

from megadga.run_folder.trace import TracedStep
from megadga.value.recursion import sequence_values
from tests.support.left_out import small_transformer, trace_training, write_text

SIZES = np.array([3, 4])


def random_steps(*, num_steps=6, rate=0.3, kept=1.0):
    rng = np.random.default_rng(0)
    return [
        TracedStep(
            number + 1,
            kept,
            rate * rng.uniform(0.5, 1.0, size=2),
            rng.integers(3, size=4),
            rng.integers(99, size=4),
            rng.normal(size=(4, 7)) * 0.5,
        )
        for number in range(num_steps)
    ]


def values_of(steps, target, sizes=SIZES):
    backwards = ((step,) for step in reversed(steps))
    return sequence_values(target, sizes, backwards, num_steps=len(steps))


def embeddings_by_hand(steps, sizes):
    """``e = r g - r M g`` and ``M += sum e g^T``, from the last step on, with ``p x p`` numbers.

    Rates that differ between parameters stand between ``I - M`` and ``g``; with one rate it is the
    recursion as the paper prints it.
    """
    m = np.zeros((sizes.sum(), sizes.sum()))
    embeddings = []
    for step in reversed(steps):
        rated = step.gradients.astype(np.float64) * np.repeat(step.rates, sizes)
        found = rated - rated @ m.T
        m += found.T @ step.gradients
        embeddings.append(found)
    return np.stack(embeddings[::-1])


def test_values_are_products_with_the_data_value_embeddings_of_the_paper():
    steps, target = random_steps(), np.random.default_rng(1).normal(size=7)
    expected = embeddings_by_hand(steps, SIZES) @ target
    found = values_of(steps, target)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-10)
    first = [s.gradients @ (np.repeat(s.rates, SIZES) * target) for s in steps]
    np.testing.assert_allclose(found.first_order, first, rtol=0, atol=1e-12)
    assert abs(found.values - found.first_order).max() > 0.1


def test_values_of_a_run_without_projection_are_those_of_the_recursion_by_hand():
    run = trace_training(small_transformer, write_text(num_steps=9, batch_size=4), rate=0.5)
    expected = embeddings_by_hand(run.steps, run.sizes) @ run.target
    np.testing.assert_allclose(run.values().values, expected, rtol=0, atol=1e-10)


def test_sequences_of_all_ranks_are_one_batch_in_the_order_of_the_ranks():
    steps, target = random_steps(), np.ones(7)

    def part(step, rows):
        fields = ("domains", "windows", "gradients")
        return replace(step, **{name: getattr(step, name)[rows] for name in fields})

    ranks = ((part(s, slice(0, 2)), part(s, slice(2, 4))) for s in reversed(steps))
    found = sequence_values(target, SIZES, ranks, num_steps=6)
    whole = values_of(steps, target)
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-12)
    assert np.array_equal(found.windows, whole.windows)
    assert np.array_equal(found.domains, [step.domains for step in steps])


def test_weight_decay_makes_earlier_steps_count_less():
    target = np.ones(7)
    plain, decayed = (values_of(random_steps(kept=kept), target) for kept in (1.0, 0.5))
    assert np.array_equal(decayed.values[5], plain.values[5])
    steps = random_steps()
    after = 0.5 * target - steps[5].gradients.T @ plain.values[5]
    expected = steps[4].gradients @ (np.repeat(steps[4].rates, SIZES) * after)
    np.testing.assert_allclose(decayed.values[4], expected, rtol=1e-12)


def test_steps_at_which_the_recursion_grows_are_named():
    target = np.ones(7)
    assert values_of(random_steps(rate=0.1), target).unstable_steps == ()
    steps = random_steps(rate=0.1)
    largest = np.linalg.norm(steps[2].gradients * np.sqrt(np.repeat(steps[2].rates, SIZES)), 2)
    for scale, unstable in ((0.99, ()), (1.01, (3,))):
        rates = steps[2].rates * 2.0 * scale / largest**2
        changed = [*steps[:2], replace(steps[2], rates=rates), *steps[3:]]
        assert values_of(changed, target).unstable_steps == unstable


def test_a_trace_of_other_steps_than_expected_is_an_error():
    with pytest.raises(ValueError, match="steps: expected 7, found 6"):
        sequence_values(np.ones(7), SIZES, ((s,) for s in reversed(random_steps())), num_steps=7)


def test_leaving_out_a_sequence_of_the_last_step_costs_its_value_to_first_order():
    # The rest is of second order in the rate: a quarter of it is left at half the rate.
    text, rest = write_text(num_steps=3, batch_size=4), []
    for rate in (0.02, 0.01):
        run = trace_training(small_transformer, text, rate=rate)
        value, true = run.values().values[-1], run.left_out([(2, row) for row in range(4)])
        rest.append(abs(value - true).max())
        assert rest[-1] < 0.02 * abs(true).max()
    assert rest[1] / rest[0] == pytest.approx(0.25, rel=0.1)


CHOSEN = [(step, step % 8) for step in range(4, 300, 15)]


def correlation(values, true, *, of_ranks=False):
    pair = np.array([[values[each] for each in CHOSEN], true])
    coefficients = np.corrcoef(pair.argsort().argsort() if of_ranks else pair)
    return float(np.asarray(coefficients)[0, 1])


def test_values_over_300_steps_of_sgd_correlate_with_what_leaving_sequences_out_costs():
    text = write_text(num_steps=300, batch_size=8)
    run = trace_training(small_transformer, text, rate=0.02)
    true, found = run.left_out(CHOSEN), run.values()
    assert correlation(found.values, true) > 0.8
    assert correlation(found.values, true, of_ranks=True) > 0.8
    # What the steps after it do to it matters.
    assert correlation(found.first_order, true) < 0.6
    projected = trace_training(small_transformer, text, rate=0.02, dimension=6)  # of 10 to 30
    pair = (projected.values().values.ravel(), found.values.ravel())
    assert np.corrcoef(*pair)[0, 1] > 0.9


def test_values_over_300_steps_of_adamw_rank_sequences_by_what_leaving_them_out_costs():
    text = write_text(num_steps=300, batch_size=8)
    run = trace_training(small_transformer, text, rate=0.001, adam=True)
    true, found = run.left_out(CHOSEN), run.values()
    assert correlation(found.values, true, of_ranks=True) > 0.6
    # One rate for all parameters, as if it were SGD, does worse.
    rates = np.full(len(run.sizes), 0.001)
    as_sgd = replace(run, steps=[replace(step, rates=rates) for step in run.steps])
    assert correlation(as_sgd.values().values, true) < correlation(found.values, true)
