"""`megadga law`, as it is called, on runs that a sweep would leave behind."""

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from megadga.cli import main
from megadga.config.loading import load_config
from tests.support.runs import write_run
from tests.support.shards import write_sets


def loss_at(weight: float) -> float:
    return 2.0 + 1.0 / (weight**0.7 + 0.4 * (1.0 - weight) ** 0.7)


def write_swept(folder: Path, weight: float) -> None:
    """Write what a run of two domains at this weight of the first leaves behind."""
    folder.mkdir(parents=True)
    weights = {"d0": weight, "d1": 1.0 - weight}
    config = {
        "seed": 0,
        "model": {"type": "llama", "sequence_length": 8},
        "mixing": {"type": "static", "weights": weights},
        "training": {"steps": 10, "global_batch_size": 8},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    domains = {"d0": loss_at(weight), "d1": loss_at(1.0 - weight)}
    records: list[dict[str, Any]] = [
        {"type": "event", "step": 0, "event": "start", "averaged_weights": weights},
        {
            "type": "evaluation",
            "step": 10,
            "specific": {"qa": loss_at(weight)},
            "domains": domains,
            "general": sum(domains.values()) / 2,
        },
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path)
    return tmp_path


def write_sweep(folder: Path) -> None:
    for index, weight in enumerate(np.linspace(0.1, 0.9, 7).tolist()):
        write_swept(folder / "swept" / f"m{index}", weight)


@pytest.fixture(scope="module")
def law_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("law")
    write_sweep(folder)
    with chdir(folder):
        assert fit() == 0
    return (folder / "law.json").read_bytes()


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, law_file: bytes) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "law.json").write_bytes(law_file)
    return tmp_path


def fit(*more: str) -> int:
    runs = [str(each) for each in sorted(Path("swept").iterdir())]
    quick = ("--starts", "4", "--folds", "3", "--replicates", "4")
    return main(["law", "fit", *runs, "--output", "law.json", *quick, *more])


def test_a_fit_says_what_it_is_of_and_how_well_it_predicts(folder, capsys):
    assert fit() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "power law of 3 sets over 2 domains, fitted to 7 runs at 7 mixtures, after 640 tokens"
    )
    rows = {line.split()[0]: line.split()[1:] for line in lines if "=" in line}
    assert rows["specific=qa"][0] < "0.01"
    assert rows["specific=qa"][2] == "1.000"
    assert lines[-1] == "law.json: written"


def test_fewer_mixtures_than_unknowns_are_warned_of(folder, capsys):
    runs = ["swept/m0", "swept/m6"]
    assert main(["law", "fit", *runs, "--output", "law.json", "--replicates", "0"]) == 0
    assert "warning: 2 mixtures for 4 unknowns of each set" in capsys.readouterr().out


def test_a_prediction_says_when_it_extrapolates(fitted, capsys):
    capsys.readouterr()
    assert main(["law", "predict", "law.json", "--weights", "d0=0.4", "d1=0.6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    qa = found["losses"]["specific=qa"]
    assert qa["loss"] == pytest.approx(loss_at(0.4), abs=1e-3)
    assert qa["low"] <= qa["loss"] + 1e-3
    assert found["notes"] == []
    assert main(["law", "predict", "law.json", "--weights", "d0=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "extrapolates: the nearest average of the runs' mixtures is 0.100 away in total variation"
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["d0=0.5"], "--weights: expected a sum of 1, found 0.5"),
        (["d2=1"], "--weights: expected one of d0, d1, found 'd2'"),
        (["d0=0.5", "d0=0.5"], "--weights: expected DOMAIN=W once, with W in [0, 1], found"),
        (["d0"], "--weights: expected DOMAIN=W once, with W in [0, 1], found 'd0'"),
    ],
)
def test_weights_that_are_no_mixture_are_one_line(fitted, capsys, weights, message):
    capsys.readouterr()
    assert main(["law", "predict", "law.json", "--weights", *weights]) == 2
    assert message in capsys.readouterr().err


def test_the_best_mixture_is_a_section_that_a_run_takes(fitted, capsys):
    write_sets(fitted, num_domains=2)
    run = write_run(fitted)
    assert main(["law", "optimise", "law.json", "--output", "mixture.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Both domains alike: half of each.
    section = yaml.safe_load(Path("mixture.yaml").read_text())["mixing"]
    assert section["weights"] == pytest.approx({"d0": 0.5, "d1": 0.5}, abs=1e-2)
    (option,) = [line for line in lines if line.startswith("--set")]
    override = option.removeprefix("--set '").removesuffix("'")
    assert load_config(run, [override]).mixing.model_dump()["weights"] == section["weights"]


def test_the_run_that_it_is_for_says_how_often_domains_are_read(fitted, capsys):
    write_sets(fitted, num_domains=2)
    write_run(fitted)
    best = ["law", "optimise", "law.json", "--objective", "specific=qa", "--for", "run.yaml"]
    assert main([*best, "--max-epochs", "0.6"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (first,) = [row for row in rows if row and row[0] == "d0"]
    # All of the weight that 0.6 epochs of d0 allow.
    assert float(first[-1]) == pytest.approx(0.6, abs=0.01)
    assert main([*best, "--prior", "proportional", "--max-distance", "0.1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (first,) = [row for row in rows if row and row[0] == "d0"]
    assert float(first[1]) - float(first[3]) == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-epochs", "4"], "--max-epochs: expected --for RUN beside it, found none"),
        (["--prior", "proportional"], "--prior: expected uniform, or --for RUN beside it, found"),
        (["--objective", "qa"], "objective: expected one of general, specific=qa, domain=d0"),
    ],
)
def test_what_cannot_be_optimised_is_one_line(fitted, capsys, options, message):
    capsys.readouterr()
    assert main(["law", "optimise", "law.json", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_other_domains_is_refused(fitted, capsys):
    write_sets(fitted, num_domains=3)
    write_run(fitted)
    assert main(["law", "optimise", "law.json", "--for", "run.yaml"]) == 2
    assert "data.domains: expected those of the law, d0, d1, found d0, d1, d2" in (
        capsys.readouterr().err
    )
