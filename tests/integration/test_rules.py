"""Every kind of rule in a whole run: it moves the mixture, and a resumed run goes on exactly."""

import json

import numpy as np
import pytest

from megadga.mixers.basis import Basis, write_basis
from tests.support.jobs import alone, run_job
from tests.support.runs import write_run
from tests.support.shards import write_grouped, write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing: {type: dga, preset: paper, interval: 2, step_size: 0.02, ema: 0.5}
training: {steps: 6, global_batch_size: 8, micro_batch_size: 8}
deepspeed: zero.json
evaluation: null
checkpoint: {interval: 3, keep_last: null}
"""
CLUSTERING = "cd" * 32
CLUSTERS = ("c0", "c1", "c2", "c3")
SCHEDULE = """{type: schedule, between: linear, stages: [
    {step: 0, weights: uniform}, {step: 5, weights: {d0: 0.2, d1: 0.3, d2: 0.5}}]}"""
AGAIN = """mixing={type: gradient_norm, interval: 2, initial: {d0: 0.8, d1: 0.1, d2: 0.1},
    resample: {uniform_share: 0.3}}"""
DROPOUT = """model={type: hugging_face, sequence_length: 8, config: {model_type: gpt2, n_embd: 16,
    n_layer: 1, n_head: 2, n_positions: 8, resid_pdrop: 0.2}}"""
RULES = {
    "dga": ("mixing.step_size={spread: 0.3}", "mixing.max_change=0.05", "mixing.warmup=1"),
    "dga, with an objective of its own": ("training.domain_weights=uniform",),
    "dga by default": ("mixing={type: dga, overhead: 0.3}",),
    "dga, of a model with dropout": (DROPOUT,),
    "doge": ("mixing={type: doge, interval: 2, step_size: 0.01}",),
    "ado": ("mixing={type: ado, interval: 2, warmup: 4, ignored: 0, initial: uniform}",),
    "odm": ("mixing={type: odm, interval: 1, smoothing: 0.5}",),
    "gradient_norm, windows drawn again": (
        AGAIN,
        "training.global_batch_size=32",  # so that a domain comes to its second epoch
        "training.micro_batch_size=32",
        "training.domain_weights=uniform",
    ),
    "schedule": (f"mixing={SCHEDULE}",),
    "basis": (
        "data.domains=shards/clusters",
        "data.too_short=leave_out",
        "mixing.basis=basis.npz",
    ),
}


def schedule(name: str, **params: float) -> list[str]:
    values = ", ".join(f"{key}: {value}" for key, value in params.items())
    return [f"deepspeed.scheduler={{type: {name}, params: {{total_num_steps: auto, {values}}}}}"]


SCHEDULES = {
    "cosine": schedule("WarmupCosineLR", warmup_num_steps=2, warmup_min_ratio=0.5),
    "decay": schedule("WarmupStableDecayLR", warmup_num_steps=1, decay_num_steps=2),
    "fixed_weights": [
        *schedule("WarmupDecayLR", warmup_num_steps=1),
        "mixing={type: static, weights: uniform}",
    ],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What became of every rule's runs, by its name."""
    folder = tmp_path_factory.mktemp("rules")
    write_run(folder, RUN)
    write_sets(folder / "shards", num_domains=3)
    write_grouped(folder / "shards" / "clusters", CLUSTERS, classifier=CLUSTERING)
    rows = [np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.1, 0.0, 0.3, 0.6])]
    basis = Basis.from_rows(rows, names=("qa", "code"), domains=CLUSTERS, clustering=CLUSTERING)
    write_basis(folder / "basis.npz", basis)
    worker = "tests.integration.workers.rules"
    rules = json.dumps({k: [*v] for k, v in RULES.items()})
    finished = run_job(alone(worker, rules, json.dumps(SCHEDULES)), folder)
    assert finished.code == 0, finished.text
    return json.loads(finished.text.splitlines()[-1])


@pytest.mark.parametrize("rule", RULES)
def test_a_run_in_two_parts_ends_like_the_whole_one(found, rule):
    run = found["rules"][rule]
    assert run["resumed_at"] == 3
    assert run["records_equal"]
    assert run["differing"] == []


@pytest.mark.parametrize("rule", RULES)
def test_the_mixture_moves(found, rule):
    assert found["rules"][rule]["updates"] >= 2


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_finished_run_can_be_made_longer_by_a_schedule_that_ends(found, name):
    run = found["longer"][name]
    assert run["resumed_at"] == 4
    assert len(run["expected"]) == 3
    assert run["rates"] == run["expected"]
    assert run["changed"] == [
        {"training.steps": [4, 8], "deepspeed.scheduler.params.total_num_steps": [4, 8]}
    ]
    assert run["done"]


def test_a_finished_run_is_evaluated_on_a_set_that_it_has_not_seen(found):
    assert found["evaluated"] == {
        "step": 8,
        "sets": ["target", "new"],
        "finite": True,
        "done": True,
        "kept": True,
    }
