from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from tests.support.runs import RUN, write_run


def complaints(path: Path, *overrides: str) -> list[str]:
    """Return the lines that a configuration is refused with, folders left out."""
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value).replace(f"{path.parent}/", "").splitlines()


def test_a_run_is_read_with_its_defaults(tmp_path):
    run = load_config(write_run(tmp_path)).model_dump()
    assert run["seed"] == 17
    assert run["mixing"]["ema"] == 1.0
    assert run["mixing"]["preset"] == "filtered"
    assert run["training"]["precision"] == "fp32"
    assert run["deepspeed"]["zero_optimization"] == {"stage": 1}


def test_the_resolved_text_reads_back_as_the_same_run(tmp_path):
    config = load_config(write_run(tmp_path))
    resolved = tmp_path / "resolved" / "config.yaml"
    resolved.parent.mkdir()
    resolved.write_text(config.to_yaml())
    assert load_config(resolved) == config


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "  stepsize: 0.5",
            (
                "run.yaml:11: mixing.stepsize: expected a known key, found 'stepsize'; "
                "did you mean 'step_size'?"
            ),
        ),
        (
            "  keep_last: 2",
            (
                "run.yaml:11: mixing.keep_last: expected a known key, found 'keep_last'; "
                "did you mean 'checkpoint.keep_last'?"
            ),
        ),
        (
            "  dga: 1",
            (
                "run.yaml:11: mixing.dga: expected one of basis, combine, ema, "
                "epoch_budget, filtered, floor, freeze_after, general_guard, initial, "
                "interval, max_change, min_effective_domains, min_signal, overhead, preset, "
                "prior, prior_pull, probe, repeat_decay, score, step_size, type, warmup, "
                "without_moments, "
                "found 'dga'"
            ),
        ),
        ("  ema: 0", "run.yaml:11: mixing.ema: expected a number greater than 0, found 0"),
        (
            "  ema: '0.5'",
            "run.yaml:11: mixing.ema: expected a valid number, found '0.5'",
        ),
        (
            "  score: cosin",
            (
                "run.yaml:11: mixing.score: expected 'raw', 'cosine', 'clipped' or 'adam', "
                "found 'cosin'; did you mean 'cosine'?"
            ),
        ),
        (
            "  probe: {specific_sequence: 3}",
            (
                "run.yaml:11: mixing.probe.specific_sequence: expected a known key, "
                "found 'specific_sequence'; did you mean 'specific_sequences'?"
            ),
        ),
        (
            "  weights: uniform",
            (
                "run.yaml:11: mixing.weights: expected one of basis, combine, ema, "
                "epoch_budget, filtered, floor, freeze_after, general_guard, initial, "
                "interval, max_change, min_effective_domains, min_signal, overhead, preset, "
                "prior, prior_pull, probe, repeat_decay, score, step_size, type, warmup, "
                "without_moments, "
                "found 'weights', a key of type static"
            ),
        ),
        (
            "  initial: proportionl",
            (
                "run.yaml:11: mixing.initial: expected 'uniform' or 'proportional', "
                "found 'proportionl'; did you mean 'proportional'?"
            ),
        ),
        (
            "  initial: {type: temperature, temperature: 0}",
            "run.yaml:11: mixing.initial.temperature: expected a number greater than 0, found 0",
        ),
        (
            "  initial: {a: 0.5, b: 0.3}",
            "run.yaml:11: mixing.initial: expected weights that sum to 1, found a sum of 0.8",
        ),
        (
            "  initial: {a: 1.5, b: -0.5}",
            (
                "run.yaml:11: mixing.initial.b: expected a number greater than or equal to 0, "
                "found -0.5"
            ),
        ),
        (
            "  interval: 5",
            "run.yaml:11: mixing.interval: expected each key once, found it in run.yaml:9 as well",
        ),
    ],
)
def test_an_issue_is_reported_with_line_key_expected_and_found(tmp_path, line, complaint):
    text = RUN.replace("  step_size: 0.5\n", f"  step_size: 0.5\n{line}\n")
    assert complaints(write_run(tmp_path, text)) == [complaint]


def test_all_issues_are_reported_at_once_in_source_order(tmp_path):
    text = (
        RUN.replace("output: out", "outptu: out")
        .replace("preset: tiny", "preset: tny")
        .replace("steps: 10", "steps: 0")
        .replace("type: dga", "type: dag")
    )
    path = write_run(tmp_path, text, optimizer="AdamW")
    assert complaints(path, "evaluation=often") == [
        "run.yaml:1: output: expected a value, found nothing",
        "run.yaml:2: outptu: expected a known key, found 'outptu'; did you mean 'output'?",
        (
            "run.yaml:3: model.preset: expected 'nano', 'tiny', '8m', '30m', '125m', '350m', "
            "'750m', '1b' or '7b', found 'tny'; did you mean 'tiny'?"
        ),
        (
            "run.yaml:8: mixing.type: expected 'ado', 'dga', 'doge', 'doremi', 'gradient_norm', "
            "'grape', 'importance', 'matched', 'odm', 'proportional', 'schedule', 'static', "
            "'temperature', 'uniform' or 'unimax', found 'dag'; did you mean 'dga'?"
        ),
        "run.yaml:11: training.steps: expected a number greater than or equal to 1, found 0",
        "zero.json:5: deepspeed.optimizer: expected a mapping, found 'AdamW'",
        "override 1: evaluation: expected a mapping, found 'often'",
    ]


def test_wrong_settings_of_deepspeed_are_reported_beside_misspelt_keys(tmp_path):
    path = write_run(tmp_path, f"{RUN}stepz: 1\n", train_batch_size=9)
    assert complaints(path) == [
        (
            "run.yaml:13: stepz: expected one of checkpoint, data, deepspeed, evaluation, "
            "metrics, mixing, model, monitor, output, sampling, seed, trace, training, watch, "
            "found 'stepz'"
        ),
        (
            "zero.json:12: deepspeed.train_batch_size: expected 8 (training.global_batch_size), "
            "found 9"
        ),
    ]


def test_an_override_replaces_a_value_and_takes_yaml(tmp_path):
    path = write_run(tmp_path)
    config = load_config(
        path,
        [
            "mixing.step_size=1e-2",
            "mixing.probe.sequences_per_domain=3",
            "data.domains=[{name: a, path: x}, {name: b, path: y}]",
            "data.domains.1.path=z",
            "evaluation=null",
            "deepspeed.zero_optimization.stage=3",
            "mixing.initial={a: 0.25, b: 0.75}",
        ],
    )
    run = config.model_dump(mode="json")
    assert run["mixing"]["step_size"] == 0.01
    assert run["mixing"]["probe"]["sequences_per_domain"] == 3
    assert run["mixing"]["initial"] == {"a": 0.25, "b": 0.75}
    assert [folder["path"] for folder in run["data"]["domains"]] == ["x", "z"]
    assert run["evaluation"] is None
    assert run["deepspeed"]["zero_optimization"]["stage"] == 3


def test_the_last_override_of_a_key_counts(tmp_path):
    assert load_config(write_run(tmp_path), ["seed=1", "seed=2"]).seed == 2


def test_a_misspelt_override_is_the_error_of_a_misspelt_key(tmp_path):
    assert complaints(write_run(tmp_path), "seed=3", "mixing.step_sise=0.5") == [
        (
            "override 2: mixing.step_sise: expected a known key, found 'step_sise'; "
            "did you mean 'step_size'?"
        )
    ]
    assert complaints(write_run(tmp_path), "mixin.ema=0.5") == [
        "override 1: mixin: expected a known key, found 'mixin'; did you mean 'mixing'?"
    ]
    assert complaints(write_run(tmp_path), "seed.ema=0.5") == [
        'override 1: seed: expected a valid integer, found {"ema": 0.5}'
    ]


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=3", ".a=3"])
def test_an_override_without_key_or_value_is_refused(tmp_path, override):
    assert complaints(write_run(tmp_path), override) == [
        f"override 1: expected key=value, found {override!r}"
    ]


def test_an_override_whose_value_is_no_yaml_is_refused(tmp_path):
    (complaint,) = complaints(write_run(tmp_path), "data.domains=[")
    assert complaint.startswith("override 1: expected YAML, found a syntax error")


def test_deepspeeds_file_lies_relative_to_the_runs_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    path = write_run(tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config(path).deepspeed["optimizer"]["type"] == "AdamW"


def test_a_missing_deepspeed_file_is_reported_at_the_key_unless_overridden(tmp_path):
    path = write_run(tmp_path, RUN.replace("zero.json", "zero9.json"))
    assert complaints(path) == [
        "run.yaml:12: deepspeed: expected a JSON file, found none at zero9.json"
    ]
    other = f"deepspeed={tmp_path}/zero.json"
    assert load_config(path, [other]).deepspeed["zero_optimization"] == {"stage": 1}


def test_a_deepspeed_file_that_is_no_json_is_reported_with_its_own_line(tmp_path):
    path = write_run(tmp_path)
    (tmp_path / "zero.json").write_text('{\n"optimizer": {\n')
    (complaint,) = complaints(path)
    assert complaint.startswith("zero.json:3: expected YAML, found a syntax error")
    (tmp_path / "zero.json").write_text("[1]")
    assert complaints(path) == ["zero.json:1: deepspeed: expected a mapping, found [1]"]


@pytest.mark.parametrize("text", ["", "3", "[a, b]"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    (complaint,) = complaints(write_run(tmp_path, text))
    assert complaint.startswith("run.yaml:1: expected a mapping of keys, found ")


def test_domains_that_are_listed_have_different_names(tmp_path):
    path = write_run(tmp_path)
    assert complaints(path, "data.domains=[{name: a, path: x}, {name: a, path: y}]") == [
        "override 1: data.domains: expected different names, found 'a' twice"
    ]
    assert complaints(path, "data.domains=[]") == [
        "override 1: data.domains: expected at least one {name, path}, found []"
    ]
    assert complaints(path, "data.domains=[{name: a, pth: x}]") == [
        "override 1: data.domains.0.path: expected a value, found nothing",
        "override 1: data.domains.0.pth: expected a known key, found 'pth'; did you mean 'path'?",
    ]


@pytest.mark.parametrize("mixing", ["dga", "grape"])
def test_what_aligns_needs_a_specific_set(tmp_path, mixing):
    rule = f"mixing={{type: {mixing}, interval: 4, step_size: 1.0"
    rule += ", task_step_size: 1.0}" if mixing == "grape" else "}"
    path, none = write_run(tmp_path), "data.specific={}"
    assert complaints(path, none, rule) == [
        (
            "override 1: data.specific: expected at least one set, "
            f"which mixing.type {mixing} aligns to, found none"
        )
    ]
    for sets in ("{a: {path: x}}", "{a: {path: x}, b: {path: y, importance: 0.5}}"):
        assert load_config(path, [f"data.specific={sets}", rule])
    assert load_config(path, [none, "mixing={type: static, weights: uniform}"])


def test_importance_is_above_zero(tmp_path):
    override = "data.specific.target.importance=0.0"
    assert complaints(write_run(tmp_path), override) == [
        (
            "override 1: data.specific.target.importance: expected a number greater than 0, "
            "found 0.0"
        )
    ]
