import copy

import numpy as np
import pytest
import torch

from megadga.data.create import create_domain
from megadga.data.examples import open_examples
from megadga.data.folder import DomainSource, open_domain
from megadga.data.manifest import TokenizerIdentity
from megadga.train.evaluation import Evaluation, EvaluationPlan
from tests.unit.train.fakes import VOCABULARY, FakeEngine, LoneRank

LENGTH = 4
WINDOWS = {"a": 7, "b": 2, "target": 5}
TOKENIZER = TokenizerIdentity(
    kind="sentencepiece", fingerprint="0" * 64, vocab_size=VOCABULARY, eod=2
)


@pytest.fixture
def sets(tmp_path):
    """Held-out splits with ``WINDOWS`` windows of random tokens each."""
    opened = {}
    for seed, (name, windows) in enumerate(WINDOWS.items()):
        tokens = np.random.default_rng(seed).integers(VOCABULARY, size=windows * LENGTH + 1)
        create_domain(tmp_path / name, TOKENIZER, {"valid": [tokens]})
        source = DomainSource(name, tmp_path / name)
        opened[name] = open_domain(source, split="valid", sequence_length=LENGTH)
    return opened


def evaluation(
    engine, sets, *, sequences=100, interval=10, last_step=25, collective=None, observe=None
):
    return Evaluation(
        engine,
        domains=[sets["a"], sets["b"]],
        specific=[sets["target"]],
        plan=EvaluationPlan(interval=interval, last_step=last_step, sequences=sequences),
        collective=LoneRank() if collective is None else collective,
        observe_general=observe,
    )


def mean_loss(engine, domain, count):
    with torch.no_grad():
        return engine.module(torch.from_numpy(domain.windows(np.arange(count)))).mean().item()


@pytest.mark.parametrize("sequences", [1, 3, 100])
def test_losses_are_the_means_over_each_sets_first_windows(sets, sequences):
    engine = FakeEngine(micro_batch_size=3)
    expected = {
        name: mean_loss(engine, sets[name], min(sequences, count))
        for name, count in WINDOWS.items()
    }

    told = evaluation(engine, sets, sequences=sequences).after_step(10)["evaluation"]

    assert told["specific"] == {"target": pytest.approx(expected["target"], rel=1e-6)}
    assert told["domains"] == {
        "a": pytest.approx(expected["a"], rel=1e-6),
        "b": pytest.approx(expected["b"], rel=1e-6),
    }
    assert told["general"] == pytest.approx((expected["a"] + expected["b"]) / 2, rel=1e-6)


def test_the_mean_over_the_domains_is_reported_when_there_is_one(sets):
    told = []
    engine = FakeEngine(micro_batch_size=3)
    evaluating = evaluation(engine, sets, observe=told.append)
    records = [evaluating.after_step(step) for step in (9, 10, 20)]
    assert records[0] == {}
    assert told == [record["evaluation"]["general"] for record in records[1:]]

    of_a_target_alone = Evaluation(
        engine,
        domains=[],
        specific=[sets["target"]],
        plan=EvaluationPlan(interval=1, last_step=1, sequences=3),
        collective=LoneRank(),
        observe_general=told.append,
    )
    assert of_a_target_alone.after_step(1)["evaluation"]["general"] is None
    assert len(told) == 2


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 5])
def test_a_padded_set_has_the_mean_over_its_tokens(tmp_path, world_size, micro_batch_size):
    documents = [np.arange(size) % VOCABULARY for size in (2, 9, 3, 5, 20)]
    create_domain(tmp_path / "target", TOKENIZER, {"valid": documents})
    source = DomainSource("target", tmp_path / "target")
    engine = FakeEngine(micro_batch_size=micro_batch_size)
    with torch.no_grad():  # each document by itself, uncut
        losses = [engine.module(torch.from_numpy(tokens[None])) for tokens in documents]
    expected = torch.cat(losses, dim=1).mean().item()

    parts = [
        Evaluation(
            engine,
            domains=[],
            specific=[open_examples(source, split="valid", sequence_length=LENGTH)],
            plan=EvaluationPlan(interval=1, last_step=1, sequences=100),
            collective=LoneRank(rank, world_size),
        ).after_step(1)["evaluation"]["specific"]["target"]
        for rank in range(world_size)
    ]

    assert sum(parts) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_ranks_parts_add_up_to_the_whole(sets, world_size):
    engine = FakeEngine(micro_batch_size=2)
    whole = evaluation(engine, sets).after_step(10)["evaluation"]

    # A lone rank counts the others' windows as 0; means are linear, so that parts add up.
    parts = [
        evaluation(engine, sets, collective=LoneRank(rank, world_size)).after_step(10)
        for rank in range(world_size)
    ]

    for kind in ("specific", "domains"):
        for name, loss in whole[kind].items():
            assert sum(p["evaluation"][kind][name] for p in parts) == pytest.approx(loss, rel=1e-6)


def test_it_is_due_at_intervals_and_at_the_last_step(sets):
    plugin = evaluation(FakeEngine(), sets, interval=10, last_step=25)

    assert [step for step in range(1, 26) if plugin.after_step(step)] == [10, 20, 25]


def test_evaluation_has_no_side_effects(sets):
    engine = FakeEngine()
    before = copy.deepcopy(engine.module.state_dict())
    random_state = torch.random.get_rng_state()
    engine.module.train()

    evaluation(engine, sets).after_step(10)

    assert engine.module.training
    assert engine.micro_steps == 0
    assert torch.equal(torch.random.get_rng_state(), random_state)
    for name, parameter in engine.module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_without_domains_there_is_no_general_loss(sets):
    plugin = Evaluation(
        FakeEngine(),
        domains=[],
        specific=[sets["target"]],
        plan=EvaluationPlan(interval=1, last_step=1, sequences=2),
        collective=LoneRank(),
    )

    told = plugin.after_step(1)["evaluation"]

    assert told["domains"] == {}
    assert told["general"] is None


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="expected a set to evaluate, found none"):
        Evaluation(
            FakeEngine(),
            domains=[],
            specific=[],
            plan=EvaluationPlan(interval=1, last_step=1, sequences=2),
            collective=LoneRank(),
        )
