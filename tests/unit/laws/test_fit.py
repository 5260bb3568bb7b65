import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.laws.extrapolating import extrapolate_sizes, extrapolate_steps
from megadga.laws.file import read_law, write_law
from megadga.laws.fit import LawRequest, fit_law
from megadga.laws.observations import Observations, read_losses
from megadga.report.runs import RunHistory
from tests.support.histories import run_of, weights_of

QUICK = LawRequest(starts=4, folds=4, replicates=3)
TOKENS = 320  # between evaluations


def loss_at(weight: float, tokens: float) -> float:
    """Falls with the weight of the domain, and by a power law of the tokens."""
    return 1.0 + np.exp(-weight) + (100.0 / tokens) ** 0.5


def sweep(number: int = 8, evaluations: int = 6) -> list[RunHistory]:
    tokens = [float(TOKENS * each) for each in range(1, evaluations + 1)]
    return [
        run_of(
            f"m{index}",
            weights=weights_of([weight, 1.0 - weight]),
            domains={
                "a": [loss_at(weight, each) for each in tokens],
                "b": [loss_at(1.0 - weight, each) for each in tokens],
            },
        )
        for index, weight in enumerate(np.linspace(0.1, 0.9, number).tolist())
    ]


def test_a_law_is_of_the_last_common_evaluation_and_predicts_mixtures_it_has_not_seen():
    law = fit_law(sweep(), QUICK)
    assert (law.domains, law.sets) == (("a", "b"), ("domain=a", "domain=b"))
    assert (law.tokens, law.observed_tokens) == (6 * TOKENS, 6 * TOKENS)
    found = law.fitted().predict(np.array([[0.42, 0.58]]))[0]
    expected = [loss_at(each, 6 * TOKENS) for each in (0.42, 0.58)]
    assert found == pytest.approx(expected, abs=1e-3)
    assert len(law.resampled()) == 3
    assert max(each.mean_absolute_error for each in law.held_out) < 5e-3
    assert min(each.rank_correlation for each in law.held_out[1:]) > 0.99


def test_more_tokens_than_were_trained_follow_laws_of_steps():
    law = fit_law(sweep(), replace(QUICK, tokens=40 * TOKENS))
    assert (law.tokens, law.observed_tokens) == (40 * TOKENS, 6 * TOKENS)
    found = law.fitted().predict(np.array([[0.42, 0.58]]))[0]
    assert found == pytest.approx([loss_at(each, 40 * TOKENS) for each in (0.42, 0.58)], abs=5e-3)


def test_tokens_between_evaluations_are_refused():
    with pytest.raises(ConfigError, match=r"tokens: expected a number that .* found 400"):
        fit_law(sweep(), replace(QUICK, tokens=400))


def test_a_law_of_steps_needs_three_late_evaluations():
    runs = read_losses(sweep(evaluations=2))
    with pytest.raises(ConfigError, match="m0: expected at least 3 evaluations"):
        extrapolate_steps(runs, 40 * TOKENS)


def at_size(parameters: int) -> Observations:
    weights = np.array([[0.5, 0.5], [0.2, 0.8]])
    losses = 2.0 + weights[:, :1] + (1e6 / parameters) ** 0.4
    return Observations(("m0", "m1"), ("a", "b"), ("domain=a",), weights, losses)


def test_a_larger_model_follows_a_law_of_sizes():
    sizes = (1_000_000, 4_000_000, 16_000_000, 64_000_000)
    found = extrapolate_sizes({size: at_size(size) for size in sizes}, 10**9)
    by_mixture = dict(zip(map(tuple, found.weights.tolist()), found.losses[:, 0], strict=True))
    expected = {(0.5, 0.5): 2.5 + 1e-3**0.4, (0.2, 0.8): 2.2 + 1e-3**0.4}
    assert by_mixture == pytest.approx(expected, abs=1e-3)


def test_a_law_of_sizes_needs_three_of_the_same_mixtures():
    two = {size: at_size(size) for size in (10**6, 10**7)}
    with pytest.raises(ConfigError, match=r"runs of at least 3 sizes, .* found 1,000,000, 10,000"):
        extrapolate_sizes(two, 10**9)
    other = at_size(10**8)
    other = replace(other, weights=other.weights[:, ::-1])
    with pytest.raises(ConfigError, match="the same mixtures at every size"):
        extrapolate_sizes({**two, 10**8: other}, 10**9)


def test_one_mixture_is_no_law():
    with pytest.raises(ConfigError, match="runs: expected at least 2 mixtures, found 1"):
        fit_law([sweep()[0], replace(sweep()[0], folder=Path("runs/again"))], QUICK)


@pytest.mark.parametrize("kind", ["exponential", "power", "linear"])
def test_a_law_survives_its_file(tmp_path, kind):
    law = fit_law(sweep(), replace(QUICK, kind=kind))
    write_law(tmp_path / "law.json", law)
    assert read_law(tmp_path / "law.json") == law


def test_what_is_wrong_in_a_file_is_named_with_its_key(tmp_path):
    path = tmp_path / "law.json"
    write_law(path, fit_law(sweep(), replace(QUICK, kind="exponential")))
    content = json.loads(path.read_text())
    content["version"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"{path}: version: expected 1, found 2"):
        read_law(path)
    content["version"] = 1
    content["law"]["t"][0].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="law: expected parameters of 2 sets and 2 domains"):
        read_law(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="expected a law by `megadga law fit`, found"):
        read_law(path)
