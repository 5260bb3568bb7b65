from pathlib import Path

import numpy as np
import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from megadga.mixers.matching import matched_weights
from megadga.sweep.config import DirichletMixtures, load_sweep
from megadga.sweep.planning import SweepRun, plan_sweep, write_runs
from tests.support.ranks import REPOSITORY
from tests.support.runs import write_run
from tests.support.shards import open_sets, write_sets

SWEEP = """\
run: run.yaml
set: [training.steps=6]
output: swept
mixtures: {type: dirichlet, number: 3, prior: uniform}
seeds: [0, 1]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return write_sets(tmp_path, num_domains=2)


def plan(folder: Path, text: str = SWEEP) -> tuple[SweepRun, ...]:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return plan_sweep(load_sweep(path)).runs


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def weights(run: SweepRun) -> list[float]:
    return list(run.config.mixing.model_dump()["weights"].values())


def test_every_mixture_is_a_run_with_each_seed_all_of_one_before_the_next(folder):
    runs = plan(folder)
    assert [run.name for run in runs] == [
        *("m000-seed0", "m001-seed0", "m002-seed0"),
        *("m000-seed1", "m001-seed1", "m002-seed1"),
    ]
    assert [weights(run) for run in runs[:3]] == [weights(run) for run in runs[3:]]
    assert len({tuple(weights(run)) for run in runs}) == 3
    for run in runs:
        assert run.config.training.steps == 6
        assert run.config.seed == int(run.name[-1])
        assert run.config.output == folder / "swept" / run.name


def test_a_runs_file_is_the_run(folder):
    runs = plan(folder)
    write_runs(runs)
    write_runs(runs)
    for run in runs:
        assert load_config(run.file).to_yaml() == run.config.to_yaml()


def test_files_of_another_sweep_are_not_replaced(folder):
    write_runs(plan(folder))
    with pytest.raises(ConfigError, match="expected what this sweep writes, found the run of"):
        write_runs(plan(folder, SWEEP.replace("uniform", "{d0: 0.9, d1: 0.1}")))


def test_mixtures_that_are_written_down_are_those(folder):
    listed = "{type: listed, weights: [uniform, {d1: 0.75, d0: 0.25}, {type: matched}]}"
    runs = plan(folder, SWEEP.replace("{type: dirichlet, number: 3, prior: uniform}", listed))
    domains, specific = open_sets(folder)
    matched = matched_weights(domains, [specific]).tolist()
    assert [weights(run) for run in runs[:3]] == [[0.5, 0.5], [0.25, 0.75], matched]


WIDE = SWEEP.replace(
    "number: 3, prior: uniform", "number: 8, prior: uniform, strength: [0.01, 0.01]"
)


def test_no_domain_is_read_more_often_than_it_may_be(folder):
    domains, _ = open_sets(folder)
    caps = [4.0 * domain.num_sequences / (80 * 8) for domain in domains]
    runs = plan(folder, WIDE.replace("steps=6", "steps=80"))
    drawn = np.array([weights(run) for run in runs])
    # At so low a strength a domain has nearly all of the weight: down to its cap.
    assert drawn.max(axis=0) == pytest.approx(caps, rel=1e-9)


def test_nor_in_the_run_that_the_sweep_is_for(folder):
    domains, _ = open_sets(folder)
    tokens = sum(domain.num_tokens for domain in domains)
    runs = plan(folder, f"{WIDE}target_tokens: {3 * tokens}\n")
    drawn = np.array([weights(run) for run in runs])
    caps = [4.0 * domain.num_tokens / (3 * tokens) for domain in domains]
    assert drawn.max(axis=0) == pytest.approx(caps, rel=1e-9)
    said = refusal(folder, f"{WIDE}target_tokens: {5 * tokens}\n")
    assert said == (
        "sweep.yaml:1: max_epochs: expected at least 5.00, "
        "which all domains together need, found 4"
    )


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("dirichlet", "dirichlt", "mixtures.type: expected"),
        ("number: 3", "number: 0", "mixtures.number: expected a number greater than"),
        ("seeds: [0, 1]", "seeds: []", "seeds: expected"),
        ("seeds", "sedes", "sedes: expected a known key, found 'sedes'; did you mean 'seeds'?"),
        (
            "prior: uniform",
            "strength: [2.0, 1.0]",
            "mixtures.strength: expected the smaller one first, found [2, 1]",
        ),
        (
            "prior: uniform",
            "prior: {d0: 0.5, d2: 0.5}",
            "mixtures.prior.d2: expected the name of a domain, found 'd2'",
        ),
        (
            "{type: dirichlet, number: 3, prior: uniform}",
            "{type: halving, number: 9000}",
            "mixtures.number: expected at most",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(folder, before, after, message):
    line = "5" if before.startswith("seeds") else "4"
    lines = refusal(folder, SWEEP.replace(before, after)).splitlines()
    assert any(each.startswith(f"sweep.yaml:{line}: {message}") for each in lines)


def test_the_sweep_of_law_trial_is_one():
    shipped = load_sweep(REPOSITORY / "configs" / "laws" / "sweep.yaml")
    proxy = load_config(shipped.run)
    assert proxy.checkpoint is None
    assert shipped.output == REPOSITORY / "build" / "law-trial"


def test_the_runs_that_tell_the_noise_of_law_trial_are_of_its_first_mixtures():
    sweep, noise = (
        load_sweep(REPOSITORY / "configs" / "laws" / f"{name}.yaml") for name in ("sweep", "noise")
    )
    assert noise.seeds == (0, 1)
    assert isinstance(noise.mixtures, DirichletMixtures)
    assert isinstance(sweep.mixtures, DirichletMixtures)
    assert noise.mixtures.number < sweep.mixtures.number
    same = {"mixtures": sweep.mixtures, "seeds": sweep.seeds}
    assert noise.model_copy(update=same) == sweep
