import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.mixers.base import AlignmentNeeds, LossNeeds, TargetNeeds
from megadga.mixers.dga import Dga
from megadga.mixers.doge import Doge
from megadga.mixers.general_guard import GeneralGuard
from megadga.mixers.gradient_norm import GradientNorm
from megadga.mixers.grape import Grape
from megadga.mixers.matching import matched_weights
from megadga.mixers.odm import Odm
from megadga.mixers.probing import Directional, InFlight, LowRank, LowRankEnergy, Sharded
from megadga.mixers.scores import AutoStep
from megadga.mixers.static import Static, unimax_weights
from megadga.mixers.targets import OverTargets
from megadga.mixers.updates import UpdateSteps
from megadga.mixers.weights import MatchedWeights
from megadga.train.data import RunData, open_data
from megadga.train.mixture import Mixture, make_mixture
from tests.support.probes import sized
from tests.support.runs import write_run
from tests.support.shards import write_domain


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three domains of different sizes and a specific set, under the working directory."""
    for index, name in enumerate(("code", "novels", "recipes")):
        write_domain(tmp_path / "domains" / name, seed=index, num_documents=10 * (index + 1))
    write_domain(tmp_path / "specific", seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(folder: Path, *overrides: str) -> tuple[RunConfig, RunData]:
    config = load_config(write_run(folder), overrides)
    return config, open_data(config)


def mixture(folder: Path, *overrides: str) -> Mixture:
    config, data = load(folder, *overrides)
    return make_mixture(
        config, data.domains, specific=data.specific, excluded=data.excluded.keys()
    )


def initial_weights(folder: Path, *overrides: str) -> Any:
    return mixture(folder, *overrides).scheduler.init().averaged_weights


PAPER = "mixing.preset=paper"


def static(weights: str) -> str:
    return f"mixing={{type: static, weights: {weights}}}"


@pytest.mark.parametrize(
    ("short", "weights"),
    [
        ("{type: uniform}", "uniform"),
        ("{type: proportional}", "proportional"),
        ("{type: temperature, temperature: 2}", "{type: temperature, temperature: 2}"),
        ("{type: unimax, max_epochs: 0.5}", "{type: unimax, max_epochs: 0.5}"),
        ("{type: matched, uniform_share: 0.2}", "{type: matched, uniform_share: 0.2}"),
    ],
)
def test_a_type_with_a_name_is_static_with_these_weights(folder, short, weights):
    found = mixture(folder, f"mixing={short}")
    np.testing.assert_array_equal(
        found.scheduler.init().averaged_weights, initial_weights(folder, static(weights))
    )
    assert isinstance(found.scheduler, Static)
    assert found.updates is None


def test_dga_of_the_paper_comes_with_its_interval_and_measures_directionally(folder):
    found = mixture(folder, PAPER, "mixing.probe.sequences_per_domain=3")
    assert found.scheduler.observes == AlignmentNeeds()
    assert found.updates == UpdateSteps(4)
    assert found.probe == sized(Directional(), 3, 32)
    np.testing.assert_array_equal(found.scheduler.init().averaged_weights, np.full(3, 1 / 3))


def test_dga_without_any_key_is_filtered_and_measures_in_flight_as_often_as_it_may(folder):
    found = mixture(folder, "mixing={type: dga}", "training.steps=1000")
    assert isinstance(found.scheduler, Dga)
    assert found.scheduler.filtered
    assert found.scheduler.general_guard == GeneralGuard(max_rise=0.1, pull=0.5)
    assert found.scheduler.observes == AlignmentNeeds(preconditioned=True, without_moments="raw")
    assert found.probe == InFlight(
        sequences_per_domain=1,
        specific_sequences=8,
        direction=LowRank(rank=16),
        direction_interval=10,
        refresh_every=None,
    )
    assert found.updates == UpdateSteps(interval=30, early_interval=10, early_steps=100)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.specific={a: {path: specific}, b: {path: specific}}"],
        ["mixing.score=cosine"],
        ["mixing.filtered=false"],
        ["training.loss_reweighting={strategy: quadratic}"],
        ["training.domain_weights=uniform"],
    ],
)
def test_what_cannot_be_measured_in_flight_is_by_default_measured_between_steps(folder, overrides):
    found = mixture(folder, "mixing={type: dga}", *overrides)
    assert found.probe == Directional(sequences_per_domain=2, specific_sequences=8)


def test_dga_starts_from_weights_matched_to_its_specific_sets(folder):
    sets = "data.specific={a: {path: specific}, b: {path: domains/code, importance: 3.0}}"
    _, data = load(folder, "mixing={type: dga}", sets)
    found = mixture(folder, "mixing={type: dga}", sets).scheduler.init().averaged_weights
    share = MatchedWeights(type="matched").uniform_share
    expected = matched_weights(
        data.domains, data.specific, uniform_share=share, importance=np.array([1.0, 3.0])
    )
    np.testing.assert_array_equal(found, expected)
    assert found.argmax() == [domain.name for domain in data.domains].index("code")
    np.testing.assert_array_equal(initial_weights(folder, PAPER), np.full(3, 1 / 3))


@pytest.mark.parametrize(
    "key",
    ["mixing.weights", "training.domain_weights"],
)
def test_weights_are_matched_only_where_there_are_specific_sets(folder, key):
    static = ["mixing={type: static, weights: uniform}", f"{key}={{type: matched}}"]
    assert initial_weights(folder, *static).shape == (3,)
    with pytest.raises(ConfigError) as error:
        mixture(folder, *static, "data.specific={}")
    assert str(error.value) == (
        f"override 2: {key}: expected specific sets (data.specific) to match the domains to, "
        "found none"
    )


def test_the_preset_gives_way_to_keys_that_are_given(folder):
    found = mixture(folder, "mixing={type: dga, preset: paper, interval: 7, score: adam}")
    scheduler = found.scheduler
    assert isinstance(scheduler, Dga)
    assert (scheduler.step_size, scheduler.score, found.updates) == (0.1, "adam", UpdateSteps(7))
    assert not scheduler.filtered
    assert scheduler.budget is None
    assert scheduler.discount is None
    assert scheduler.general_guard is None


def test_the_budget_counts_epochs_of_the_runs_batches(folder):
    config, data = load(folder, "mixing={type: dga, epoch_budget: 2.5, repeat_decay: 3.0}")
    scheduler = make_mixture(config, data.domains, specific=data.specific).scheduler
    assert isinstance(scheduler, Dga)
    assert scheduler.budget is not None
    assert scheduler.budget.max_epochs == 2.5
    assert scheduler.budget.total_steps == 10
    windows = np.array([domain.num_sequences for domain in data.domains])
    np.testing.assert_array_equal(scheduler.budget.epochs_per_step, 8 / windows)
    assert scheduler.discount is not None
    assert (scheduler.discount.decay, scheduler.discount.total_steps) == (3.0, 10)
    np.testing.assert_array_equal(scheduler.discount.epochs_per_step, 8 / windows)


@pytest.mark.parametrize(
    ("probe", "method"),
    [
        ("{type: sharded}", Sharded()),
        ("{direction: {rank: 8}}", Directional(direction=LowRank(rank=8))),
        (
            "{direction: {energy: 0.5, max_rank: 4}, direction_interval: 3}",
            Directional(direction=LowRankEnergy(energy=0.5, max_rank=4), direction_interval=3),
        ),
        ("{type: in_flight}", InFlight()),
        (
            "{type: in_flight, refresh_every: 2, direction: {rank: 1}, direction_interval: 5}",
            InFlight(direction=LowRank(rank=1), direction_interval=5, refresh_every=2),
        ),
    ],
)
def test_alignments_are_measured_as_the_probe_says(folder, probe, method):
    assert mixture(folder, f"mixing.probe={probe}").probe == method


def test_a_score_by_adam_says_what_it_does_without_moments(folder):
    found = mixture(folder, PAPER, "mixing.score=adam")
    assert found.scheduler.observes == AlignmentNeeds(preconditioned=True)
    found = mixture(folder, PAPER, "mixing.score=adam", "mixing.without_moments=raw")
    assert found.scheduler.observes == AlignmentNeeds(preconditioned=True, without_moments="raw")


def test_dga_takes_every_setting(folder):
    found = mixture(
        folder,
        PAPER,
        "mixing.ema=0.5",
        "mixing.score=cosine",
        "mixing.floor=0.1",
        "mixing.initial={code: 0.25, novels: 0.25, recipes: 0.5}",
        "mixing.prior=uniform",
        "mixing.prior_pull=0.2",
        "mixing.min_signal=0.7",
    )
    scheduler = found.scheduler
    assert isinstance(scheduler, Dga)
    settings = (scheduler.step_size, scheduler.ema, scheduler.score)
    assert settings == (0.5, 0.5, "cosine")
    assert (scheduler.floor, scheduler.prior_pull, scheduler.min_signal) == (0.1, 0.2, 0.7)
    np.testing.assert_array_equal(scheduler.initial, [0.25, 0.25, 0.5])
    np.testing.assert_array_equal(scheduler.prior, np.full(3, 1 / 3))


def test_dga_takes_every_guard(folder):
    found = mixture(
        folder,
        PAPER,
        "mixing.step_size={spread: 0.3}",
        "mixing.max_change=0.25",
        "mixing.warmup=2",
        "mixing.freeze_after=9",
        "mixing.general_guard={max_rise: 0.25, pull: 0.5}",
        "mixing.min_effective_domains=1.5",
    )
    scheduler = found.scheduler
    assert isinstance(scheduler, Dga)
    assert scheduler.step_size == AutoStep(spread=0.3)
    assert (scheduler.max_change, scheduler.warmup, scheduler.freeze_after) == (0.25, 2, 9)
    assert scheduler.general_guard == GeneralGuard(max_rise=0.25, pull=0.5)
    assert found.min_effective_domains == 1.5


def test_the_alarm_threshold_is_at_most_that_of_the_initial_mixture(folder):
    found = mixture(folder, "mixing.min_effective_domains=3.0", "mixing.initial=uniform")
    assert found.min_effective_domains == 3.0
    with pytest.raises(ConfigError) as error:
        mixture(
            folder,
            "mixing.min_effective_domains=2.5",
            "mixing.initial={code: 0.5, novels: 0.5, recipes: 0}",
        )
    assert str(error.value) == (
        "override 1: mixing.min_effective_domains: expected at most 2, the effective domains of "
        "the first mixture, found 2.5"
    )


def test_static_weights_follow_their_rule(folder):
    _, data = load(folder)
    tokens = np.array([domain.num_tokens for domain in data.domains])
    np.testing.assert_allclose(initial_weights(folder, static("uniform")), np.full(3, 1 / 3))
    np.testing.assert_allclose(
        initial_weights(folder, static("proportional")), tokens / tokens.sum()
    )
    flat = np.sqrt(tokens)
    rule = static("{type: temperature, temperature: 2}")
    np.testing.assert_allclose(initial_weights(folder, rule), flat / flat.sum())


def test_unimax_weights_have_the_tokens_of_the_whole_run_as_their_budget(folder):
    _, data = load(folder)
    tokens = np.array([domain.num_tokens for domain in data.domains])
    expected = unimax_weights(tokens, budget=10 * 8 * 8, max_epochs=0.5)  # of RUN
    assert len(set(expected.tolist())) > 1  # something is capped
    found = initial_weights(folder, static("{type: unimax, max_epochs: 0.5}"))
    np.testing.assert_array_equal(found, expected)


TWO_SETS = "data.specific={a: {path: specific, importance: 3.0}, b: {path: specific}}"


def test_several_specific_sets_are_combined_before_the_rule_sees_them(folder):
    found = mixture(folder, TWO_SETS, PAPER, "mixing.score=cosine", "mixing.combine=worst")
    scheduler = found.scheduler
    assert isinstance(scheduler, OverTargets)
    assert isinstance(scheduler.rule, Dga)
    assert (scheduler.combine, scheduler.score, scheduler.rule.score) == ("worst", "cosine", "raw")
    np.testing.assert_array_equal(scheduler.importance, [3.0, 1.0])
    assert scheduler.observes == TargetNeeds(2, norms=True)


def test_one_specific_set_is_left_to_the_rule_itself(folder):
    assert isinstance(mixture(folder, PAPER, "mixing.combine=worst").scheduler, Dga)


def test_grape_takes_every_setting(folder):
    found = mixture(
        folder,
        TWO_SETS,
        "mixing={type: grape, interval: 2, step_size: 1.5, task_step_size: 5.0, score: clipped, "
        "task_smoothing: 0.1, initial: {code: 0.5, novels: 0.5, recipes: 0}, "
        "probe: {type: sharded, specific_sequences: 3}}",
    )
    scheduler = found.scheduler
    assert isinstance(scheduler, Grape)
    assert (scheduler.step_size, scheduler.task_step_size) == (1.5, 5.0)
    assert (scheduler.task_smoothing, scheduler.score) == (0.1, "clipped")
    np.testing.assert_array_equal(scheduler.initial, [0.5, 0.5, 0.0])
    np.testing.assert_array_equal(scheduler.task_weights, [0.75, 0.25])
    assert (found.updates, found.probe) == (UpdateSteps(2), sized(Sharded(), 8, 3))


def test_odm_follows_losses_and_measures_nothing(folder):
    found = mixture(
        folder,
        "mixing={type: odm, interval: 2, smoothing: 0.5, warmup: 7, reward: exponential}",
    )
    scheduler = found.scheduler
    assert isinstance(scheduler, Odm)
    assert scheduler.observes == LossNeeds()
    assert (scheduler.smoothing, scheduler.warmup, scheduler.reward) == (0.5, 7, "exponential")
    assert (found.updates, found.probe) == (UpdateSteps(2), None)


def test_gradient_norm_follows_norms_and_draws_windows_of_streams_again(folder):
    again = "mixing={type: gradient_norm, momentum: 0.5, base_share: 0.2, resample: {}}"
    found = mixture(folder, again, "mixing.resample.uniform_share=0.3")
    scheduler = found.scheduler
    assert isinstance(scheduler, GradientNorm)
    assert (scheduler.momentum, scheduler.base_share) == (0.5, 0.2)
    assert (found.updates, found.probe, found.resampled_uniformly) == (UpdateSteps(1), None, 0.3)

    write_domain(folder / "talk", seed=3, chat=True)
    chat = "data.domains=[{name: code, path: domains/code}, {name: t, path: talk, packing: chat}]"
    assert mixture(folder, "mixing={type: gradient_norm}", chat).resampled_uniformly is None
    with pytest.raises(ConfigError, match=r"mixing.resample: expected null with .* found t"):
        mixture(folder, again, chat)


def test_doge_aligns_domains_with_one_another_or_with_the_specific_set(folder):
    doge = "mixing={type: doge, interval: 3, step_size: 0.01, max_score: 2.0}"
    found = mixture(folder, doge, "mixing.probe={type: sharded, sequences_per_domain: 3}")
    scheduler = found.scheduler
    assert isinstance(scheduler, Doge)
    assert (scheduler.step_size, scheduler.max_score) == (0.01, 2.0)
    assert scheduler.observes == AlignmentNeeds(norms=True, target="domains")
    assert (found.updates, found.probe) == (UpdateSteps(3), sized(Sharded(), 3, 32))
    assert load(folder, doge)[1].specific == ()

    found = mixture(folder, doge, "mixing.target=specific")
    assert found.scheduler.observes == AlignmentNeeds(norms=True)
    (specific,) = load(folder, doge, "mixing.target=specific")[1].specific
    assert specific.name == "target"


def test_explicit_weights_go_by_name_and_are_normalised(folder):
    weights = initial_weights(folder, static("{recipes: 0.333, code: 0.333, novels: 0.3335}"))
    np.testing.assert_allclose(weights, np.array([0.333, 0.3335, 0.333]) / 0.9995, rtol=1e-15)
    assert mixture(folder, static("uniform")).updates is None
    assert mixture(folder, static("uniform")).probe is None


def test_importance_weights_come_from_the_histogram(folder):
    Path("histogram.json").write_text(json.dumps({"novels": 3, "code": 1, "recipes": 0}))
    weights = initial_weights(folder, "mixing={type: importance, histogram: histogram.json}")
    np.testing.assert_allclose(weights, [0.25, 0.75, 0.0])


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (
            [static("{code: 0.5, novel: 0.5}")],
            [
                (
                    "override 1: mixing.weights: expected a weight for each of the 3 domains, "
                    "found none for 2 (novels, recipes)"
                ),
                (
                    "override 1: mixing.weights.novel: expected the name of a domain, "
                    "found 'novel'; did you mean 'novels'?"
                ),
            ],
        ),
        (
            ["mixing.floor=0.4"],
            ["override 1: mixing.floor: expected at most 1 / 3 domains, found 0.4"],
        ),
        (
            ["mixing.prior={code: 1, novels: 0, recipes: 0}"],
            [
                (
                    "override 1: mixing.prior: expected a weight above 0 wherever "
                    "mixing.initial has one, found 0"
                )
            ],
        ),
        (
            ["mixing={type: importance, histogram: nowhere.json}"],
            ["override 1: mixing.histogram: expected a file, found none at nowhere.json"],
        ),
    ],
)
def test_weights_that_do_not_fit_the_domains_are_reported_with_their_place(
    folder, overrides, lines
):
    with pytest.raises(ConfigError) as error:
        mixture(folder, *overrides)
    assert str(error.value).splitlines() == lines


def test_of_many_misnamed_domains_five_are_named(folder):
    weights = ", ".join(f"x{index}: 0.125" for index in range(8))
    with pytest.raises(ConfigError) as error:
        mixture(folder, static(f"{{{weights}}}"))
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + 1 + 5
    assert lines[0].endswith("expected names of domains, found 3 more that are none")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "expected JSON with each name once, found Expecting property name"),
        ('{"code": 1, "code": 2}', "expected JSON with each name once, found 'code' twice"),
        ("[1]", "expected a count or share, found [1]"),
        ('{"code": "1"}', "code: expected a count or share, found '1'"),
        ('{"code": -1}', "code: expected a count or share, found -1"),
        ('{"code": NaN}', "code: expected a count or share, found NaN"),
        ('{"code": 1, "poems": 2}', "histogram: expected exactly the 3 domains, found poems"),
        ('{"code": 0, "novels": 0, "recipes": 0}', "histogram: expected a mass > 0"),
    ],
)
def test_a_file_that_is_no_histogram_is_refused(folder, text, complaint):
    Path("h.json").write_text(text)
    with pytest.raises(ConfigError) as error:
        mixture(folder, "mixing={type: importance, histogram: h.json}")
    assert str(error.value).startswith(f"h.json: {complaint}")
    assert "\n" not in str(error.value)


LEAVE_OUT = ("data.too_short=leave_out", "model.sequence_length=250")  # code is too short


def test_what_a_histogram_has_in_a_domain_that_is_excluded_goes_to_the_others(folder):
    (folder / "h.json").write_text(json.dumps({"code": 5, "novels": 1, "recipes": 4}))
    found = mixture(folder, "mixing={type: importance, histogram: h.json}", *LEAVE_OUT)
    assert found.scheduler.init().weights.tolist() == [0.2, 0.8]
    assert found.lost_mass == 0.5
    (folder / "h.json").write_text(json.dumps({"novels": 1, "recipes": 4}))
    found = mixture(folder, "mixing={type: importance, histogram: h.json}", *LEAVE_OUT)
    assert found.lost_mass == 0.0


def test_a_weight_of_a_domain_that_is_excluded_is_refused(folder):
    weights = static("{code: 0.5, novels: 0.25, recipes: 0.25}")
    with pytest.raises(ConfigError) as error:
        mixture(folder, weights, *LEAVE_OUT)
    assert "mixing.weights.code: expected the name of a domain that is not left out" in str(
        error.value
    )
    assert str(error.value).endswith("(data.too_short), found 0.5 in 'code'")


def test_a_cap_that_the_domains_cannot_supply_the_run_under_is_refused(folder):
    _, data = load(folder)
    held = sum(domain.num_sequences for domain in data.domains)
    batch = ["training.global_batch_size=1", "training.micro_batch_size=1"]
    enough = [*batch, f"training.steps={held}", "sampling.max_epochs=1.0"]
    mixture(folder, *enough)
    with pytest.raises(ConfigError, match=r"override 3: sampling.max_epochs: expected at least"):
        mixture(folder, *batch, "sampling.max_epochs=1.0", f"training.steps={held + 1}")


def test_domains_without_weight_do_not_count_as_supply(folder):
    _, data = load(folder)
    only = static("{code: 1, novels: 0, recipes: 0}")
    held = data.domains[0].num_sequences
    batch = ["training.global_batch_size=1", "training.micro_batch_size=1"]
    mixture(folder, only, *batch, f"training.steps={held}", "sampling.max_epochs=1.0")
    with pytest.raises(ConfigError, match=f"from domains that hold {held}"):
        mixture(folder, only, *batch, f"training.steps={held + 1}", "sampling.max_epochs=1.0")


def test_an_objective_is_written_as_static_weights_are(folder):
    assert mixture(folder).objective is None
    explicit = "training.domain_weights={code: 0.5, novels: 0.5, recipes: 0}"
    found = mixture(folder, explicit).objective
    assert found is not None
    assert found.tolist() == [0.5, 0.5, 0.0]
    with pytest.raises(ConfigError, match=r"training.domain_weights: expected a weight for each"):
        mixture(folder, "training.domain_weights={code: 1}")


def test_an_objective_over_a_domain_that_is_never_sampled_is_refused(folder):
    rule = static("{code: 0.5, novels: 0.5, recipes: 0}")
    message = (
        "training.domain_weights: expected weights of domains that are sampled, found recipes"
    )
    with pytest.raises(ConfigError, match=message):
        mixture(folder, rule, "training.domain_weights=uniform")
