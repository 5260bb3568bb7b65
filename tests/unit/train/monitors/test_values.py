"""What monitors get of a record."""

import math

import pytest

from megadga.train.monitors.values import RecordValues

WEIGHTS = {"a": 0.25, "b": 0.75}


def values(weights=WEIGHTS, windows=None, **more):
    return RecordValues(weights, windows=lambda: windows or {}, global_batch_size=8, **more)


def test_the_numbers_of_a_step_are_named_by_their_kind():
    train = {
        "loss": 2.5,
        "grad_norm": None,
        "seconds": {"data": 0.1, "optimizer": 0.2},
        "sequences_by_domain": {"a": 3},
        "loss_by_domain": {"a": 2.0},
    }

    assert values().of(1, {"train": train}) == {
        "train/loss": 2.5,
        "seconds/data": 0.1,
        "seconds/optimizer": 0.2,
        "loss_by_domain/a": 2.0,
    }


def test_an_update_has_all_of_few_domains_and_the_step_at_which_they_run_out():
    update = {
        "alignments": {"a": 1.0, "b": math.nan},
        "standard_errors": {"a": 0.5, "b": 0.5},
        "weights": WEIGHTS,
        "averaged_weights": WEIGHTS,
        "epochs": {"a": 0.5, "b": 1.5},
        "entropy": 0.5,
        "observed_overhead": None,
    }

    found = values(windows={"a": 10, "b": 10}).of(20, {"update": update})

    assert found.pop("alignments/b") != 0.0  # NaN
    assert found == {
        "update/entropy": 0.5,
        "alignments/a": 1.0,
        **{f"standard_errors/{name}": 0.5 for name in "ab"},
        **{f"{key}/{n}": w for key in ("weights", "averaged_weights") for n, w in WEIGHTS.items()},
        "epochs/a": 0.5,
        "epochs/b": 1.5,
        "runs_out/a": 23.0,  # 5 windows, 2 a step; b has repeated already
    }


def test_of_many_domains_there_are_the_leading_ones_and_quantiles():
    weights = {f"d{index}": (index + 1) / 5050 for index in range(100)}
    update = {"averaged_weights": weights, "alignments": weights}

    found = values().of(4, {"update": update})

    shown = [f"averaged_weights/d{index}" for index in range(84, 100)]
    assert [key for key in found if key.startswith("averaged_weights/")] == shown
    assert found["quantiles/averaged_weights/min"] == 1 / 5050
    assert found["quantiles/alignments/p50"] == pytest.approx(50.5 / 5050)
    assert found["quantiles/alignments/max"] == 100 / 5050


def test_losses_of_many_domains_are_those_of_the_leading_ones():
    weights = {f"d{index}": (index + 1) / 5050 for index in range(100)}
    train = {"train": {"loss": 2.0, "loss_by_domain": dict.fromkeys(weights, 1.0)}}

    found = values(weights).of(1, train)

    assert len(found) == 17
    assert "loss_by_domain/d99" in found


def test_the_weights_of_a_group_are_summed():
    grouped = values(groups={"all": ("a", "b"), "one": ("b", "gone")})

    found = grouped.of(4, {"update": {"averaged_weights": WEIGHTS}})

    assert found["groups/averaged_weights/all"] == 1.0
    assert found["groups/averaged_weights/one"] == 0.75


def test_several_specific_sets_have_names_of_their_own():
    update = {
        "averaged_weights": WEIGHTS,
        "target_alignments": {"qa": {"a": 1.0}, "law": {"a": 2.0}},
        "target_losses": {"qa": 3.0},
    }

    found = values().of(4, {"update": update})

    assert (found["alignments/qa/a"], found["alignments/law/a"]) == (1.0, 2.0)
    assert found["update/target_losses/qa"] == 3.0


def test_an_evaluation_and_a_checkpoint():
    record = {"specific": {"qa": 2.0}, "domains": {"a": 3.0}, "general": 3.0, "epochs": {"a": 0.5}}
    checkpoint = {"seconds": 2.0, "waited_s": 0.5, "bytes": 100, "bytes_per_s": 50}

    found = values().of(4, {"evaluation": record, "checkpoint": checkpoint})

    assert found == {
        "evaluation/specific/qa": 2.0,
        "evaluation/domains/a": 3.0,
        "evaluation/general": 3.0,
        "epochs/a": 0.5,
        **{f"checkpoint/{key}": value for key, value in checkpoint.items()},
        "seconds/checkpoint": 0.5,
    }
