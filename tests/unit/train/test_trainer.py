import copy
import math

import pytest
import torch

from megadga.train.ranks import CollectiveStop, StepAllReduce
from megadga.train.trainer import Trainer
from tests.unit.train.fakes import VOCABULARY, BigramModel, FakeEngine, LoneRank, batch

TOKENS = torch.randint(VOCABULARY, (2, 2, 6), generator=torch.Generator().manual_seed(0))


def clock(*moments):
    remaining = iter(moments)
    return lambda: next(remaining)


def trainer(engine, *, collective=None, seconds=(0.0, 1.0)):
    ranks = LoneRank() if collective is None else collective
    return Trainer(engine, ["a", "b", "c"], step_sum=StepAllReduce(ranks), clock=clock(*seconds))


def test_a_step_trains_on_the_mean_of_all_its_sequences():
    engine = FakeEngine(accumulation=2)
    expected = copy.deepcopy(engine.module)
    loss = expected(TOKENS.flatten(0, 1)).mean()
    loss.backward()

    trainer(engine).step(batch(TOKENS, domains=[0, 2, 0, 2], rows=[[0, 1], [2, 3]]))

    (scores,), (moved,) = expected.parameters(), engine.module.parameters()
    assert scores.grad is not None
    torch.testing.assert_close(moved, scores - 0.1 * scores.grad)


def test_losses_are_reported_in_all_and_by_domain_drawn():
    engine = FakeEngine(accumulation=2, norm=3.5)
    by_sequence = engine.module(TOKENS.flatten(0, 1)).mean(-1).tolist()

    # The micro-batches hold rows 2, 0 and 3, 1 of the global batch.
    told = trainer(engine, seconds=(10.0, 12.5)).step(
        batch(TOKENS, domains=[2, 0, 2, 2], rows=[[2, 0], [3, 1]])
    )["train"]

    assert told["loss"] == pytest.approx(sum(by_sequence) / 4)
    assert told["sequences_by_domain"] == {"a": 1, "c": 3}
    assert told["loss_by_domain"] == {
        "a": pytest.approx(by_sequence[3]),
        "c": pytest.approx(sum(by_sequence[:3]) / 3),
    }
    assert told["tokens_per_s"] == 4 * 5 / 2.5
    assert told["grad_norm"] == 3.5


def test_sequences_of_other_ranks_come_through_the_collective():
    # This rank has rows 0 and 1 of four; the others' losses arrive as 2.0 in every place, on top.
    engine = FakeEngine()
    own = engine.module(TOKENS[0]).mean(-1).tolist()

    told = trainer(engine, collective=LoneRank(world_size=2, others=2.0)).step(
        batch(TOKENS[:1], domains=[0, 0, 1, 1], rows=[[0, 1]])
    )["train"]

    assert told["loss_by_domain"] == {"a": pytest.approx(sum(own) / 2 + 2.0), "b": 2.0}


def test_the_learning_rate_is_the_one_that_was_used():
    engine = FakeEngine(accumulation=2)
    steps = trainer(engine, seconds=(0.0, 1.0, 2.0, 3.0))
    data = batch(TOKENS, domains=[0] * 4, rows=[[0, 1], [2, 3]])
    engine.rates = (0.1, 0.2, 0.3)

    rates = [steps.step(data)["train"]["learning_rate"] for _ in range(2)]

    assert rates == [0.1, 0.2]


def test_an_engine_that_knows_no_norm_reports_none():
    told = trainer(FakeEngine()).step(batch(TOKENS[:1], domains=[0, 0], rows=[[0, 1]]))

    assert told["train"]["grad_norm"] is None


@pytest.mark.parametrize("norm", [-1.0, float("inf"), float("nan")])
def test_a_non_finite_norm_is_logged_as_nan(norm):
    # DeepSpeed says -1 for it in some places and inf in others.
    told = trainer(FakeEngine(norm=norm)).step(batch(TOKENS[:1], domains=[0, 0], rows=[[0, 1]]))

    assert not math.isfinite(told["train"]["grad_norm"])


def test_in_fp16_the_loss_scale_is_logged():
    one = batch(TOKENS[:1], domains=[0, 0], rows=[[0, 1]])

    assert trainer(FakeEngine(loss_scale=1024.0)).step(one)["train"]["loss_scale"] == 1024.0
    assert "loss_scale" not in trainer(FakeEngine()).step(one)["train"]


@pytest.mark.parametrize("compared", [False, True])
def test_a_step_makes_one_all_reduce_including_the_stop_request(compared):
    sums = []

    class Counted(LoneRank):
        def merged(self, numbers):
            sums.append(numbers.size)
            return numbers

    stop = CollectiveStop(lambda: len(sums) == 1)
    steps = Trainer(
        FakeEngine(accumulation=2, rates=(0.1, 0.1, 0.1)),
        ["a", "b", "c"],
        step_sum=StepAllReduce(Counted(), stop),
        clock=clock(*range(4)),
        reference=(lambda tokens: BigramModel()(tokens).detach()) if compared else None,
    )
    data = batch(TOKENS, domains=[0] * 4, rows=[[0, 1], [2, 3]])

    stopped = []
    for _ in range(2):
        steps.step(data)
        stopped.append(stop.agreed())

    assert sums == ([9, 9] if compared else [5, 5])
    assert stopped == [False, True]


def test_losses_of_the_whole_batch_are_reported_with_their_domains():
    engine = FakeEngine(accumulation=2)
    by_sequence = engine.module(TOKENS.flatten(0, 1)).mean(-1).tolist()
    told = []
    watched = Trainer(
        engine,
        ["a", "b", "c"],
        step_sum=StepAllReduce(LoneRank()),
        clock=clock(0.0, 1.0),
        observe_losses=lambda domains, losses, reference, targets, norms: told.append(
            (domains.tolist(), losses.tolist(), reference)
        ),
    )

    watched.step(batch(TOKENS, domains=[2, 0, 2, 2], rows=[[2, 0], [3, 1]]))

    ((domains, losses, reference),) = told
    assert reference is None
    assert domains == [2, 0, 2, 2]
    assert losses == pytest.approx([by_sequence[at] for at in (1, 3, 0, 2)])


def test_reference_losses_of_every_sequence_are_logged():
    engine, other = FakeEngine(accumulation=2), BigramModel()
    with torch.no_grad():
        other.scores.mul_(0.5)
    by_sequence = other(TOKENS.flatten(0, 1)).mean(-1).tolist()
    told = []
    compared = Trainer(
        engine,
        ["a", "b", "c"],
        step_sum=StepAllReduce(LoneRank()),
        clock=clock(0.0, 1.0),
        observe_losses=lambda domains, losses, reference, targets, norms: told.append(reference),
        reference=lambda tokens: other(tokens).detach(),
    )

    record = compared.step(batch(TOKENS, domains=[2, 0, 2, 2], rows=[[2, 0], [3, 1]]))["train"]

    (reference,) = told
    assert reference.tolist() == pytest.approx([by_sequence[at] for at in (1, 3, 0, 2)])
    assert record["reference_loss_by_domain"] == {
        "a": pytest.approx(by_sequence[3]),
        "c": pytest.approx(sum(by_sequence[:3]) / 3),
    }


def test_without_reference_and_weights_they_are_not_logged():
    record = trainer(FakeEngine()).step(batch(TOKENS[:1], domains=[0, 0], rows=[[0, 1]]))["train"]

    assert not record.keys() & {"reference_loss_by_domain", "effective_sequences"}
