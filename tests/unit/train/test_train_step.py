"""Training on a weighted mean is what one process would do with the whole batch at once."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from megadga.data.targets import INPUT_ONLY
from megadga.mixers.loss_reweight import LossReweighting
from megadga.model.losses import Decoder, losses_and_norms, sequence_norms, target_mask
from megadga.plugin import Batch
from megadga.train.ranks import StepAllReduce
from megadga.train.step import (
    MeanLossStep,
    Reweighting,
    WeightedLossStep,
    WindowEnd,
)
from megadga.train.timing import StepTimer
from megadga.train.trainer import Trainer
from tests.unit.train.fakes import VOCABULARY, BigramModel, FakeEngine, LoneRank, batch

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


def window_end(engine: FakeEngine, ranks: LoneRank) -> WindowEnd:
    return WindowEnd(engine, StepAllReduce(ranks), timer=StepTimer(engine.device))


def weighted(
    engine: FakeEngine,
    rule: LossReweighting = RULE,
    *,
    ranks: LoneRank | None = None,
    by: Reweighting | None = None,
) -> WeightedLossStep:
    ranks = ranks or LoneRank()
    return WeightedLossStep(
        engine,
        by or reweighting(engine, rule),
        StepAllReduce(ranks),
        window_end(engine, ranks),
    )


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

    passes = weighted(double_engine(1), by=Reweighting(RULE, never))

    assert passes(batch_of(1)).weights is not None


def test_weights_follow_the_losses_of_other_ranks_too():
    class HarderElsewhere(LoneRank):
        """The rows that are not here, 2 and 3, have losses of 9."""

        def merged(self, numbers):
            return numbers + np.array([0.0, 0.0, 9.0, 9.0])

    engine = double_engine(2)
    passes = weighted(engine, ranks=HarderElsewhere())
    tokens = TOKENS[:1]
    own = engine.module(tokens[0]).mean(-1).detach().numpy()

    trained = passes(batch(tokens, domains=[0, 0, 0, 0], rows=[[0, 1]]))

    assert trained.weights is not None
    expected = RULE.weights(np.array([*own, 9.0, 9.0]), step=0)
    np.testing.assert_array_equal(trained.weights, expected)


def test_while_warming_up_the_step_is_that_of_the_plain_mean_to_the_bit():
    rule = LossReweighting("linupper", warmup=1)
    plain, warm, over = (double_engine(2) for _ in range(3))
    MeanLossStep(plain, window_end(plain, LoneRank()))(batch_of(2))

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


TRAINED = torch.tensor(
    [[[1, 0, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1]], [[0, 0, 0, 0, 0, 1], [1, 1, 0, 1, 0, 1]]]
).bool()
MARKED = torch.where(TRAINED, TOKENS, INPUT_ONLY - TOKENS)


def marked_batch(accumulation: int) -> Batch:
    """The sequences of ``TOKENS`` with 1, 5, 1 and 3 targets, of domains 0, 1, 1 and 0."""
    shape = (accumulation, 4 // accumulation)
    rows = np.array(ROWS).reshape(shape).tolist()
    return batch(MARKED.view(*shape, -1), domains=[1, 0, 0, 1], rows=rows, dialogues=True)


def losses_of_targets(engine: FakeEngine):
    """From a copy of an engine's module: the sums over the sequences' targets, and its scores."""
    alone = copy.deepcopy(engine.module)
    losses = alone(TOKENS.flatten(0, 1)) * TRAINED.flatten(0, 1)[:, 1:]
    (scores,) = alone.parameters()
    return losses.sum(-1), scores


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_dialogues_train_on_the_mean_over_the_targets_of_the_whole_batch(accumulation):
    engine = double_engine(accumulation)
    sums, scores = losses_of_targets(engine)
    (sums.sum() / 10).backward()
    sizes: list[int] = []

    class Counted(LoneRank):
        def merged(self, numbers):
            sizes.append(numbers.size)
            return numbers

    observed = []
    trainer = Trainer(
        engine,
        ["a", "b"],
        step_sum=StepAllReduce(Counted()),
        clock=iter([0.0, 1.0]).__next__,
        observe_losses=lambda domains, losses, reference, targets, norms: observed.append(targets),
    )

    record = trainer.step(marked_batch(accumulation))["train"]

    assert scores.grad is not None
    torch.testing.assert_close(moved(engine), scores.detach() - 0.1 * scores.grad)
    a, b, c, d = sums.tolist()
    assert record["loss"] == pytest.approx(sum(sums.tolist()) / 10)
    assert record["loss_by_domain"] == pytest.approx({"a": (a + d) / 4, "b": (b + c) / 6})
    assert record["sequences_by_domain"] == {"a": 2, "b": 2}
    assert record["targets_by_domain"] == {"a": 4, "b": 6}
    assert observed[0].tolist() == [5, 3, 1, 1]  # of the rows 0 to 3
    assert sizes == [4]  # no collective beside that of the losses


@pytest.mark.parametrize("accumulation", [1, 2])
def test_weights_by_loss_come_on_top_of_those_of_targets(accumulation):
    engine = double_engine(accumulation)
    sums, scores = losses_of_targets(engine)
    counts = target_mask(MARKED.flatten(0, 1)).sum(-1)
    weights = RULE.weights((sums / counts).detach().numpy(), step=0)
    ((torch.from_numpy(weights) * sums).sum() / 10).backward()
    trainer = Trainer(
        engine,
        ["a", "b"],
        step_sum=StepAllReduce(LoneRank()),
        clock=iter([0.0, 1.0]).__next__,
        reweighting=reweighting(engine),
    )

    record = trainer.step(marked_batch(accumulation))["train"]

    assert scores.grad is not None
    torch.testing.assert_close(moved(engine), scores.detach() - 0.1 * scores.grad)
    shares = weights * counts.numpy()
    assert record["loss"] == pytest.approx(sums.sum().item() / 10)
    assert record["effective_sequences"] == pytest.approx(shares.sum() ** 2 / (shares**2).sum())


def test_batches_of_texts_are_trained_to_the_bit_as_means_of_micro_batches():
    plain, trained = FakeEngine(accumulation=2), FakeEngine(accumulation=2)
    for tokens in TOKENS:
        losses = plain(tokens)
        plain.backward(losses.mean())
        plain.step()

    record = Trainer(
        trained, ["a"], step_sum=StepAllReduce(LoneRank()), clock=iter([0.0, 1.0]).__next__
    ).step(batch_of(2))["train"]

    assert torch.equal(moved(trained), moved(plain))
    assert "targets_by_domain" not in record


FACTORS = np.array([0.5, 2.0, 0.0, 1.5])


def with_objective(accumulation: int) -> Batch:
    plain = batch_of(accumulation)
    return replace(plain, indices=replace(plain.indices, global_factors=FACTORS))


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_with_an_objective_a_step_descends_on_its_mean_of_the_whole_batch(accumulation):
    engine = double_engine(accumulation)
    alone = copy.deepcopy(engine.module)
    factors = torch.from_numpy(FACTORS[np.array(ROWS).ravel()])
    (factors * alone(TOKENS.flatten(0, 1)).mean(-1)).mean().backward()

    MeanLossStep(engine, window_end(engine, LoneRank()))(with_objective(accumulation))

    (scores,) = alone.parameters()
    assert scores.grad is not None
    torch.testing.assert_close(moved(engine), scores.detach() - 0.1 * scores.grad)


def test_a_step_with_an_objective_logs_the_loss_that_it_trains_on():
    engine = double_engine(2)
    by_row = engine.module(TOKENS.flatten(0, 1)).mean(-1).detach().numpy()
    losses = by_row[np.argsort(np.array(ROWS).ravel())]
    trainer = Trainer(
        engine, ["d0"], step_sum=StepAllReduce(LoneRank()), clock=iter([0.0, 1.0]).__next__
    )
    record = trainer.step(with_objective(2))["train"]
    assert record["loss"] == pytest.approx(losses.mean(), rel=1e-12)
    assert record["objective_loss"] == pytest.approx((FACTORS * losses).mean(), rel=1e-12)
    assert record["effective_sequences"] == pytest.approx(4.0**2 / (0.25 + 4.0 + 2.25))


class BigramDecoder(Decoder):
    """The bigram model, which returns the norms of its losses' gradients, too."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = BigramModel().scores

    def logits(self, tokens_BS):  # noqa: N803
        return self.scores[tokens_BS]


def with_norms(accumulation: int, by: Reweighting | None = None):
    """A step of the bigram decoder that gathers norms, and its engine."""
    engine = FakeEngine(
        accumulation=accumulation, micro_batch_size=4 // accumulation, module=BigramDecoder()
    )
    engine.module.double()
    ranks = LoneRank()
    if by is None:
        return MeanLossStep(engine, window_end(engine, ranks), with_norms=True), engine
    by = replace(by, losses=lambda tokens: engine.module(tokens).detach())
    summed = StepAllReduce(ranks)
    end = window_end(engine, ranks)
    return WeightedLossStep(engine, by, summed, end, with_norms=True), engine


@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_norms_of_every_sequence_are_gathered_and_change_no_bit_of_the_step(
    accumulation, reweighted
):
    plain = double_engine(accumulation)
    by = reweighting(plain) if reweighted else None
    passes, engine = with_norms(accumulation, by)
    tokens, places = TOKENS.flatten(0, 1), np.array(ROWS).ravel()
    scores = BigramModel().double().scores[tokens[:, :-1]].detach()
    expected = sequence_norms(*_norms_and_mask(scores, tokens))

    trained = passes(batch_of(accumulation))
    without = weighted(plain) if reweighted else MeanLossStep(plain, window_end(plain, LoneRank()))
    same = without(batch_of(accumulation))

    assert trained.norms is not None
    np.testing.assert_allclose(trained.norms[places], expected.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(trained.losses, same.losses)
    assert torch.equal(moved(engine), moved(plain))
    assert same.norms is None


def _norms_and_mask(scores, tokens):
    return losses_and_norms(scores, tokens[:, 1:])[1], target_mask(tokens)


def test_a_trainer_reports_the_norms_beside_the_losses():
    _, engine = with_norms(2)
    told = []
    trainer = Trainer(
        engine,
        ["a"],
        step_sum=StepAllReduce(LoneRank()),
        clock=lambda: 0.0,
        observe_losses=lambda domains, losses, reference, targets, norms: told.append(norms),
        with_norms=True,
    )
    with pytest.raises(ZeroDivisionError):  # a clock that stands still has no tokens per second
        trainer.step(batch_of(2))
    (norms,) = told
    assert norms.shape == (4,)
    assert (norms > 0.0).all()
