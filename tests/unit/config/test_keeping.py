"""Which rules for keeping checkpoints a run may have."""

from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from megadga.train.best import recorded_losses
from megadga.train.data import open_data
from tests.support.runs import write_run
from tests.support.shards import write_sets

EVALUATED = "evaluation={interval: 50, sequences: 3}"
KEPT = "checkpoint={interval: 100, keep_every: 200, keep_best: {loss: specific/target}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("keeping"), num_domains=2)


def complaint(folder: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        open_data(load_config(write_run(folder), overrides))
    return str(error.value).split(": ", 1)[1]


def test_what_is_kept_is_read(folder):
    section = load_config(write_run(folder), [EVALUATED, KEPT]).checkpoint

    assert section is not None
    assert section.keep_best is not None
    assert (section.keep_every, section.keep_best.loss, section.keep_best.number) == (
        200,
        "specific/target",
        1,
    )
    assert (section.asynchronous, section.on_error) == (False, "fail")


REFUSED = {
    "a step without a checkpoint": (
        [EVALUATED, KEPT, "checkpoint.keep_every=150"],
        "checkpoint.keep_every: expected a multiple of checkpoint.interval (100), found 150",
    ),
    "no evaluation": (
        ["evaluation=null", KEPT],
        "checkpoint.keep_best: expected null without evaluation, found a validation loss",
    ),
    "checkpoints without a loss": (
        ["evaluation={interval: 80}", KEPT],
        (
            "checkpoint.interval: expected a multiple of evaluation.interval (80), as "
            "checkpoint.keep_best needs a validation loss of every checkpoint, found 100"
        ),
    ),
    "a loss that is not known": (
        [EVALUATED, KEPT, "checkpoint.keep_best.loss=specific/tarqet"],
        (
            "checkpoint.keep_best.loss: expected a validation loss of this run (specific/target, "
            "general, domains/d0, domains/d1), found 'specific/tarqet'; "
            "did you mean 'specific/target'?"
        ),
    ),
    "a writer of DeepSpeed's": (
        ["deepspeed.checkpoint={writer: {type: fast, decoupled: true}}"],
        (
            "deepspeed.checkpoint.writer: expected null (checkpoint.asynchronous writes "
            'checkpoints beside training), found {"type": "fast", "decoupled": true}'
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rule_that_nothing_fits_is_refused(folder, name):
    overrides, expected = REFUSED[name]

    assert complaint(folder, *overrides) == expected


def test_of_the_domains_losses_a_checkpoint_has_the_one_that_is_asked_for():
    evaluation = {
        "specific": {"a": 1.0, "b": float("nan")},
        "domains": {"d0": 2.0, "d1": 3.0},
        "general": None,
    }

    assert recorded_losses(evaluation, "domains/d1") == {"specific/a": 1.0, "domains/d1": 3.0}
    assert recorded_losses({**evaluation, "general": 2.5}, None) == {
        "specific/a": 1.0,
        "general": 2.5,
    }
    assert recorded_losses(None, "general") == {}
