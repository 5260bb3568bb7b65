"""Training on a weighted mean is what one process would do with the whole batch at once."""

import copy

import numpy as np
import pytest
import torch

from megadga.mixers.loss_reweight import LossReweighting
from megadga.plugin import Batch
from megadga.train.ranks import StepAllReduce
from megadga.train.step import MeanLossStep, Reweighting, Trainer, WeightedLossStep
from tests.unit.train.fakes import VOCABULARY, FakeEngine, LoneRank, batch

TOKENS = torch.randint(VOCABULARY, (2, 2, 6), generator=torch.Generator().manual_seed(0))
RULE = LossReweighting("linupper", temperature=0.3)
ROWS = [[2, 0], [3, 1]]


def double_engine(accumulation: int) -> FakeEngine:
    engine = FakeEngine(accumulation=accumulation, micro_batch_size=4 // accumulation)
    engine.module.double()
    return engine


def reweighting(engine: FakeEngine, rule: LossReweighting = RULE) -> Reweighting:
    def losses(tokens):
        with torch.no_grad():
            return engine.module(tokens)

    return Reweighting(rule, losses)


def weighted(engine: FakeEngine, rule: LossReweighting = RULE) -> WeightedLossStep:
    return WeightedLossStep(engine, reweighting(engine, rule), StepAllReduce(LoneRank()))


def batch_of(accumulation: int, *, step: int = 1) -> Batch:
    shape = (accumulation, 4 // accumulation)
    rows = np.array(ROWS).reshape(shape).tolist()
    tokens = TOKENS.view(*shape, -1)
    return batch(tokens, domains=[0, 0, 0, 0], rows=rows, step=step)


def moved(engine: FakeEngine):
    (parameter,) = engine.module.parameters()
    return parameter.detach()


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_a_step_descends_on_the_weighted_mean_of_the_whole_batch(accumulation):
    engine = double_engine(accumulation)
    alone = copy.deepcopy(engine.module)
    by_sequence = alone(TOKENS.flatten(0, 1)).mean(-1)
    weights = RULE.weights(by_sequence.detach().numpy(), step=0)
    assert np.ptp(weights) > 0.5  # they do differ
    (torch.from_numpy(weights) * by_sequence).mean().backward()

    trained = weighted(engine)(batch_of(accumulation))

    (scores,) = alone.parameters()
    assert scores.grad is not None
    torch.testing.assert_close(moved(engine), scores.detach() - 0.1 * scores.grad)
    assert trained.weights is not None
    places = np.array(ROWS).ravel()
    np.testing.assert_allclose(trained.losses[places], by_sequence.detach().numpy())
    np.testing.assert_allclose(trained.weights[places], weights)


def test_one_micro_batch_needs_no_additional_forward_pass():
    def never(tokens):
        raise AssertionError

    passes = WeightedLossStep(
        double_engine(1), Reweighting(RULE, never), StepAllReduce(LoneRank())
    )

    assert passes(batch_of(1)).weights is not None


def test_weights_follow_the_losses_of_other_ranks_too():
    class HarderElsewhere(LoneRank):
        """The rows that are not here, 2 and 3, have losses of 9."""

        def merged(self, numbers):
            return numbers + np.array([0.0, 0.0, 9.0, 9.0])

    engine = double_engine(2)
    passes = WeightedLossStep(engine, reweighting(engine), StepAllReduce(HarderElsewhere()))
    tokens = TOKENS[:1]
    own = engine.module(tokens[0]).mean(-1).detach().numpy()

    trained = passes(batch(tokens, domains=[0, 0, 0, 0], rows=[[0, 1]]))

    assert trained.weights is not None
    expected = RULE.weights(np.array([*own, 9.0, 9.0]), step=0)
    np.testing.assert_array_equal(trained.weights, expected)


def test_while_warming_up_the_step_is_that_of_the_plain_mean_to_the_bit():
    rule = LossReweighting("linupper", warmup=1)
    plain, warm, over = (double_engine(2) for _ in range(3))
    MeanLossStep(plain, StepAllReduce(LoneRank()))(batch_of(2))

    trained = weighted(warm, rule)(batch_of(2, step=1))
    after = weighted(over, rule)(batch_of(2, step=2))

    assert trained.weights is None
    assert torch.equal(moved(warm), moved(plain))
    assert after.weights is not None
    assert not torch.equal(moved(over), moved(plain))


def test_losses_that_are_not_finite_leave_all_weights_equal():
    engine = double_engine(1)
    with torch.no_grad():
        moved(engine)[int(TOKENS[0, 0, 0])] = torch.inf

    trained = weighted(engine)(batch_of(1))

    assert not np.isfinite(trained.losses).all()
    assert trained.weights is not None
    assert trained.weights.tolist() == [1.0] * 4


def test_effective_sequences_are_reported():
    engine = double_engine(2)
    moments = iter([0.0, 1.0])
    trainer = Trainer(
        engine,
        ["a"],
        step_sum=StepAllReduce(LoneRank()),
        clock=lambda: next(moments),
        reweighting=reweighting(engine),
    )
    by_sequence = engine.module(TOKENS.flatten(0, 1)).mean(-1).detach().numpy()
    weights = RULE.weights(by_sequence, step=0)

    record = trainer.step(batch_of(2))["train"]

    assert record["loss"] == pytest.approx(by_sequence.mean())
    assert record["effective_sequences"] == pytest.approx(16 / (weights**2).sum())
