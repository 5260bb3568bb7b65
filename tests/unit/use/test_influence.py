"""Influence against LESS by brute force: every document's whole gradient, in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from megadga.data.targets import mark_targets
from megadga.errors import UnsupportedEngineError
from megadga.use.scorers.gradients import GradientProducts
from megadga.use.scorers.influence import (
    GradientSimilarities,
    InfluenceScorer,
    TargetSet,
    combine_checkpoints,
)
from megadga.use.scorers.models import ScoringModel, document_windows
from megadga.use.sources import ModelName
from tests.support.models import SmallDecoder

VOCABULARY, LENGTH, EOD = 23, 6, 2
LENGTHS = (4, 15, 6, 7, 1, 12, 3)


def documents(seed: int, lengths=LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(3, VOCABULARY, size=n), EOD) for n in lengths]


def model(seed: int, *, tied_in_sight: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return SmallDecoder(VOCABULARY, LENGTH, tied_in_sight=tied_in_sight).double().eval()


def products(module: nn.Module, targets, *, cosine: bool, batch_size: int = 4):
    return GradientProducts(
        module,
        targets,
        device=torch.device("cpu"),
        context=EOD,
        sequence_length=LENGTH,
        batch_size=batch_size,
        cosine=cosine,
    )


def gradient_of(module: nn.Module, document: np.ndarray) -> np.ndarray:
    """The gradient of a document's mean loss, window by window, as one vector."""
    whole = [EOD, *document.tolist()]
    trained = [token >= 0 for token in document.tolist()]
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    losses = []
    for begin in range(0, document.size, LENGTH):
        rows = torch.tensor([whole[begin : begin + LENGTH + 1]])
        losses.append(module(rows).sum())
    mean = torch.stack(losses).sum() / sum(trained)
    grad: Any = torch.autograd.grad  # annotated as if no gradient were ever None
    found = grad(mean, parameters, allow_unused=True, materialize_grads=True)
    return np.concatenate([each.numpy().ravel() for each in found])


def less(modules, rates, scored, targets) -> np.ndarray:
    """Influence by LESS's formula, one document, checkpoint and target after the other."""
    influence = np.zeros((len(scored), len(targets)))
    for module, rate in zip(modules, rates, strict=True):
        for place, target in enumerate(targets):
            mean = np.mean([gradient_of(module, each) for each in target], axis=0)
            for row, document in enumerate(scored):
                own = gradient_of(module, document)
                norms = np.linalg.norm(own) * np.linalg.norm(mean)
                influence[row, place] += rate / sum(rates) * (own @ mean) / norms
    return influence.max(axis=1)


def test_influence_is_that_of_less_by_brute_force():
    modules, rates = [model(0), model(1), model(2)], (3e-4, 2e-4, 5e-5)
    scored, targets = documents(5), [documents(6, (9, 3)), documents(7, (2, 20, 5))]

    found = combine_checkpoints(
        np.stack([products(each, targets, cosine=True)(scored) for each in modules]),
        np.array(rates),
    )

    assert found == pytest.approx(less(modules, rates, scored, targets), abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_products_along_the_direction_are_those_of_whole_gradients(batch_size):
    module, scored, target = model(0), documents(5), documents(6, (9, 3))
    direction = np.mean([gradient_of(module, each) for each in target], axis=0)
    gradients = [gradient_of(module, each) for each in scored]

    found = products(module, [target], cosine=False, batch_size=batch_size)(scored)

    scale = float(np.linalg.norm(direction) * max(map(np.linalg.norm, gradients)))
    expected = [[gradient @ direction] for gradient in gradients]
    assert found == pytest.approx(np.array(expected), abs=1e-12 * scale)


def test_a_target_is_most_like_itself():
    module, (target, *others) = model(0), documents(5)
    found = products(module, [[target]], cosine=True)([target, *others])[:, 0]
    assert found[0] == pytest.approx(1.0, abs=1e-12)
    assert (np.abs(found[1:]) < 1.0).all()


def test_products_do_not_depend_on_the_order_of_documents():
    module, scored = model(0), documents(5)
    for cosine in (True, False):
        measure = products(module, [documents(6, (9, 3))], cosine=cosine)
        found = measure(scored)
        assert measure(scored[::-1])[::-1] == pytest.approx(found, rel=1e-9)


def test_only_trained_tokens_of_dialogues_count():
    module = model(0)
    plain = documents(5, (8,))[0]
    trained = np.array([False] * 5 + [True] * 4)
    marked = mark_targets(plain, trained)
    target = documents(6, (9, 3))
    direction = np.mean([gradient_of(module, each) for each in target], axis=0)
    found = products(module, [target], cosine=False)([marked])[0, 0]
    assert found == pytest.approx(gradient_of(module, marked) @ direction, rel=1e-9)
    assert found != pytest.approx(gradient_of(module, plain) @ direction, rel=1e-3)


def test_parameters_in_use_where_no_hook_sees_them_are_refused_along_a_direction():
    module, target = model(0, tied_in_sight=False), documents(6, (9, 3))
    with pytest.raises(UnsupportedEngineError, match=r"squared norm, found .*; score by cosine"):
        products(module, [target], cosine=False)
    products(module, [target], cosine=True)


def test_the_module_is_left_as_it_was():
    module = model(0)
    before = [parameter.requires_grad for parameter in module.parameters()]
    for cosine in (True, False):
        products(module, [documents(6, (9, 3))], cosine=cosine)(documents(5))
    assert [parameter.requires_grad for parameter in module.parameters()] == before
    assert all(parameter.grad is None for parameter in module.parameters())


def test_checkpoints_are_weighted_by_their_learning_rates():
    similarities = np.array([[[1.0, 0.0], [0.2, 0.4]], [[-1.0, 0.5], [0.2, 0.4]]])
    # (3 x 1 - 1) / 4 and 0.5 / 4: the first target is helped more.
    assert combine_checkpoints(similarities, np.array([3.0, 1.0])) == pytest.approx([0.5, 0.4])


def test_windows_have_every_token_of_one_document_as_a_target_once():
    scored = documents(5)
    windows, owners = document_windows(scored, context=EOD, sequence_length=LENGTH)
    for number, document in enumerate(scored):
        own = [window for window, owner in zip(windows, owners, strict=True) if owner == number]
        assert np.concatenate([window[1:] for window in own]).tolist() == document.tolist()
        assert [window[0] for window in own] == [EOD, *document[LENGTH - 1 :: LENGTH]][: len(own)]


def test_windows_without_a_target_are_left_out():
    marked = mark_targets(np.arange(3, 16), np.arange(13) >= 10)
    windows, owners = document_windows([marked], context=EOD, sequence_length=5)
    assert [len(window) for window in windows] == [4]
    assert owners.tolist() == [0]


def test_a_description_says_all_that_the_scores_depend_on():
    scoring = ScoringModel(ModelName("runs/a"), "abcd of step 5", sequence_length=9)
    at = GradientSimilarities(scoring, (TargetSet(Path("qa"), "1234", 7),), EOD)
    assert InfluenceScorer((at,), (0.1,)).description == (
        "influence: cosine on 1234[:7], rates 0.1, model abcd of step 5, windows of 9"
    )
