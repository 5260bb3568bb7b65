import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from tests.support.runs import write_run

LOW_RANK = "mixing.probe.direction={rank: 8}"
IN_FLIGHT = "mixing.probe.type=in_flight"
PAPER = "mixing.preset=paper"
DOGE = "{type: doge, interval: 2, step_size: 0.01}"


def complaints(folder, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(write_run(folder), overrides)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ["mixing.probe.direction_interval=2"],
            (
                "override 1: mixing.probe.direction_interval: expected 1 with "
                "mixing.probe.direction full, or a low-rank one, found 2"
            ),
        ),
        (
            [IN_FLIGHT, "mixing.probe.direction_interval=2"],
            (
                "override 2: mixing.probe.direction_interval: expected 1 with "
                "mixing.probe.direction full, or a low-rank one, found 2"
            ),
        ),
        (
            ["mixing.prior_pull=0.5", "mixing.general_guard={max_rise: 0.1, pull: 0.5}"],
            (
                "override 2: mixing.general_guard.pull: expected more than mixing.prior_pull "
                "(0.5), or the guard does nothing, found 0.5"
            ),
        ),
        (
            [IN_FLIGHT, "data.packing={talk: chat, d0: stream, help: chat}"],
            (
                "override 1: mixing.probe.type: expected directional or sharded "
                "(probe: {type: directional}) with packing chat of domain talk and 1 more, "
                "where targets differ in number, found 'in_flight'"
            ),
        ),
        (
            [IN_FLIGHT, "data.domains=[{name: talk, path: talk, packing: chat}]"],
            (
                "override 1: mixing.probe.type: expected directional or sharded "
                "(probe: {type: directional}) with packing chat of domain talk, "
                "where targets differ in number, found 'in_flight'"
            ),
        ),
        (
            ["data.domains=[{name: a, path: a}]", "data.packing={a: chat}"],
            (
                "override 2: data.packing: expected stream (or absent) beside a list of domains, "
                'each of which has a packing of its own, found {"a": "chat"}'
            ),
        ),
        (
            ["data.packing={a: examples}"],
            "override 1: data.packing.a: expected 'stream' or 'chat', found 'examples'",
        ),
        *(
            (
                [f"training.loss_reweighting={{temperature: [{stages}]}}"],
                (
                    "override 1: training.loss_reweighting.temperature: expected stages from "
                    f"step 0 on, each later than the one before, found steps {steps}"
                ),
            )
            for stages, steps in (
                ("", "[]"),
                ("{step: 5, temperature: 2}", "[5]"),
                ("{step: 0, temperature: 2}, {step: 0, temperature: 1}", "[0, 0]"),
            )
        ),
        (
            ["training.loss_reweighting={temperature: [{step: 0, temperature: 0}]}"],
            (
                "override 1: training.loss_reweighting.temperature.0.temperature: expected a "
                "number greater than 0, found 0"
            ),
        ),
        (
            ["mixing={type: schedule}"],
            "override 1: mixing: expected exactly one of stages, csv and replay, found none",
        ),
        (
            ["mixing={type: schedule, csv: a, replay: {metrics: b}}"],
            (
                "override 1: mixing: expected exactly one of stages, csv and replay, "
                "found csv and replay"
            ),
        ),
        (
            ["mixing={type: schedule, stages: []}"],
            "override 1: mixing.stages: expected at least one stage, found none",
        ),
        (
            ["mixing={type: schedule, stages: [{step: 1, weights: uniform}]}"],
            "override 1: mixing.stages.0.step: expected 0, where training begins, found 1",
        ),
        (
            ["mixing={type: schedule, replay: {metrics: b}, between: linear}"],
            (
                "override 1: mixing.between: expected 'constant' with mixing.replay, as "
                "weights of a run are piecewise constant, found 'linear'"
            ),
        ),
        (
            ["mixing={type: static, weights: {temperature: -1, b: 2}}"],
            (
                "override 1: mixing.weights.temperature: expected a number greater than or equal "
                "to 0, found -1"
            ),
        ),
        (
            ["mixing={type: static, weights: {type: unimx, max_epochs: 2}}"],
            (
                "override 1: mixing.weights.type: expected 'temperature', 'unimax' or 'matched', "
                "found 'unimx'; did you mean 'unimax'?"
            ),
        ),
        (
            ["mixing.warmup=3", "mixing.freeze_after=3"],
            (
                "override 2: mixing.freeze_after: expected more than mixing.warmup (3), or the "
                "weights never move, found 3"
            ),
        ),
        (
            ["mixing.step_size={spread: 0.0}"],
            "override 1: mixing.step_size.spread: expected a number greater than 0, found 0.0",
        ),
        (
            ["mixing.step_size={spred: 0.5, spread: 1.0}"],
            (
                "override 1: mixing.step_size.spred: expected a known key, found 'spred'; "
                "did you mean 'spread'?"
            ),
        ),
        (
            ["mixing.step_size=auto"],
            "override 1: mixing.step_size: expected a valid number, found 'auto'",
        ),
        (
            ["mixing.probe.type=sharded", "mixing.min_signal=0.5", PAPER],
            (
                "override 2: mixing.min_signal: expected 0 with mixing.probe.type sharded, "
                "which measures no noise, found 0.5"
            ),
        ),
        (
            ["mixing.min_signal=0.5", "mixing.probe.sequences_per_domain=1", PAPER],
            (
                "override 2: mixing.probe.sequences_per_domain: expected at least 2 with "
                "mixing.min_signal above 0, to estimate the noise, found 1"
            ),
        ),
        (
            [IN_FLIGHT, "mixing.score=cosine"],
            (
                "override 2: mixing.score: expected 'raw' or 'adam' with mixing.probe.type "
                "in_flight, which forms no domain's gradient, found 'cosine'"
            ),
        ),
        (
            [IN_FLIGHT, "mixing.score=clipped"],
            (
                "override 2: mixing.score: expected 'raw' or 'adam' with mixing.probe.type "
                "in_flight, which forms no domain's gradient, found 'clipped'"
            ),
        ),
        (
            ["mixing.min_signal=0.5"],
            (
                "override 1: mixing.min_signal: expected 0 with mixing.filtered, which shrinks "
                "scores by their noise, found 0.5"
            ),
        ),
        (
            ["mixing.step_size={spread: 0.5}"],
            (
                "override 1: mixing.step_size: expected a number with mixing.filtered, whose "
                'scores are standardized, found {"spread": 0.5}'
            ),
        ),
        (
            ["mixing.combine=worst"],
            (
                "override 1: mixing.combine: expected 'sum' with mixing.filtered: the worst set "
                "may change with every update, found 'worst'"
            ),
        ),
        (
            [IN_FLIGHT, "mixing.probe.refresh_every=null", PAPER],
            (
                "override 2: mixing.probe.refresh_every: expected a number with "
                "mixing.filtered false, found null"
            ),
        ),
        (
            [IN_FLIGHT, "training.domain_weights=uniform"],
            (
                "override 2: training.domain_weights: expected null with mixing.probe.type "
                "in_flight, which measures on batches that train on the mean loss, found 'uniform'"
            ),
        ),
        (
            [IN_FLIGHT, "training.micro_batch_size=1", "training.global_batch_size=1"],
            (
                "override 3: training.global_batch_size: expected at least 2 with "
                "mixing.probe.type in_flight, which compares the sequences of a batch, found 1"
            ),
        ),
        (
            ["mixing={type: doge, interval: 2, step_size: 0.01, probe: {type: in_flight}}"],
            (
                "override 1: mixing.probe.type: expected directional or sharded with "
                "mixing.type doge, which needs gradient norms, found 'in_flight'"
            ),
        ),
        (
            [f"mixing={DOGE}", "mixing.probe.direction_interval=2"],
            (
                "override 2: mixing.probe.direction_interval: expected 1 with "
                "mixing.probe.direction full, or a low-rank one, found 2"
            ),
        ),
        (
            [f"mixing={DOGE}", "mixing.target=specific", "data.specific={}"],
            (
                "override 3: data.specific: expected exactly one set, which mixing.type doge "
                "aligns to, found none"
            ),
        ),
        (
            [IN_FLIGHT, "training.loss_reweighting={strategy: quadratic}"],
            (
                "override 2: training.loss_reweighting: expected null with mixing.probe.type "
                "in_flight, which measures on batches that train on the mean loss, "
                "found 'quadratic'"
            ),
        ),
        (
            ["mixing={type: doremi}"],
            "override 1: mixing.reference: expected a value, found nothing",
        ),
    ],
)
def test_unsupported_measurements_are_reported_at_their_key(tmp_path, overrides, complaint):
    assert complaints(tmp_path, *overrides) == [complaint]


def test_all_that_contradicts_is_reported_at_once(tmp_path):
    found = complaints(
        tmp_path,
        IN_FLIGHT,
        "mixing.probe.direction_interval=2",
        "mixing.score=cosine",
        "mixing.min_signal=1.0",
        "mixing.probe.sequences_per_domain=1",
        "data.specific={}",
        PAPER,
    )
    assert [line.split(": ")[1] for line in found] == [
        "mixing.probe.direction_interval",
        "mixing.score",
        "mixing.probe.sequences_per_domain",
        "data.specific",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        [LOW_RANK, "mixing.probe.direction_interval=5"],
        [IN_FLIGHT, "mixing.score=adam", "mixing.min_signal=1.0", PAPER],
        [IN_FLIGHT, LOW_RANK, "mixing.score=adam", "mixing.probe.direction_interval=5"],
        ["mixing={type: dga}"],
        ["mixing={type: dga, preset: paper}"],
        ["mixing.score=cosine", LOW_RANK],
        ["mixing.probe.type=sharded", "mixing.score=adam"],
        ["mixing.probe.sequences_per_domain=1"],
        [f"mixing={DOGE}", "data.specific={}"],
        [f"mixing={DOGE}", "mixing.target=specific", "mixing.probe.type=sharded"],
        [f"mixing={DOGE}", LOW_RANK, "mixing.probe.direction_interval=5"],
        ["training.loss_reweighting={}"],
        [
            "mixing={type: static, weights: uniform}",
            "training={steps: 1, global_batch_size: 1, micro_batch_size: 1}",
        ],
    ],
)
def test_what_can_be_measured_is_no_contradiction(tmp_path, overrides):
    assert load_config(write_run(tmp_path), overrides)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (IN_FLIGHT, "mixing.probe.type: expected directional or sharded with mixing.basis"),
        (
            "mixing.initial=proportional",
            "mixing.initial: expected matched, uniform or {name: weight} with",
        ),
        (
            "mixing.prior={type: temperature, temperature: 2}",
            "mixing.prior: expected matched, uniform or {name: weight} with mixing.basis",
        ),
    ],
)
def test_what_a_basis_cannot_have_is_refused(tmp_path, override, complaint):
    (found,) = complaints(tmp_path, "mixing.basis=basis.npz", override)
    assert complaint in found


TWO_SETS = "data.specific={a: {path: x}, b: {path: y}}"
GRAPE = "mixing={type: grape, interval: 4, step_size: 1.0, task_step_size: 1.0}"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            [TWO_SETS, IN_FLIGHT],
            (
                "override 2: mixing.probe.type: expected directional or sharded with 2 sets in "
                "data.specific: in_flight has a single direction, found 'in_flight'"
            ),
        ),
        (
            [TWO_SETS, "mixing.min_signal=0.5", PAPER],
            (
                "override 2: mixing.min_signal: expected 0 with 2 sets in data.specific, as the "
                "noise of their combined scores is not estimated, found 0.5"
            ),
        ),
        (
            [GRAPE, IN_FLIGHT],
            (
                "override 2: mixing.probe.type: expected directional or sharded with "
                "mixing.type grape: in_flight has a single direction, found 'in_flight'"
            ),
        ),
        (
            [GRAPE, "mixing.probe={direction_interval: 2}"],
            (
                "override 2: mixing.probe.direction_interval: expected 1 with "
                "mixing.probe.direction full, or a low-rank one, found 2"
            ),
        ),
    ],
)
def test_options_unsupported_with_several_specific_sets_are_refused(
    tmp_path, overrides, complaint
):
    assert complaints(tmp_path, *overrides) == [complaint]
