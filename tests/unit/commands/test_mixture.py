"""`megadga mixture` beside a process that holds a run's lock, and takes no requests."""

import json
from pathlib import Path

import pytest

from megadga.cli import main
from megadga.commands import mixture as module
from megadga.report.domains import DomainInfo, write_domain_info
from megadga.run_folder.requests import Answer, RequestFolder
from tests.unit.report.test_sampling import weights_after, write
from tests.unit.run_folder.test_lock import held_elsewhere


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    return tmp_path


def test_a_request_that_nobody_takes_is_withdrawn(run, capsys, monkeypatch):
    assert main(["mixture", "freeze", str(run)]) == 2
    assert "expected a run that is training, found none" in capsys.readouterr().err
    with held_elsewhere(run):
        assert main(["mixture", "freeze", str(run), "--timeout", "1"]) == 2
        told = "no step ended within 1 s; the request was withdrawn, and nothing has changed"
        assert told in capsys.readouterr().err

        def interrupt(_: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(module.time, "sleep", interrupt)
        assert main(["mixture", "set", str(run), "code=0.5"]) == 2
        told = "interrupted; the request was withdrawn, and nothing has changed"
        assert told in capsys.readouterr().err
    assert RequestFolder(run).pending() == ()


def test_an_answer_that_comes_while_a_request_is_withdrawn_counts(run, capsys, monkeypatch):
    folder = RequestFolder(run)

    def answer_and_interrupt(_: float) -> None:
        (request,) = folder.pending()
        folder.take(request.number)
        folder.reply(request.number, Answer(12, weights=request.weights))
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", answer_and_interrupt)
    with held_elsewhere(run):
        assert main(["mixture", "set", str(run), "a=b=0.5"]) == 0
    assert capsys.readouterr().out == f"{run}: weights set after step 12: a=b 0.5\n"


@pytest.mark.parametrize("word", ["code", "code=", "=0.5", "code=1.5", "code=-1", "code=nan"])
def test_what_is_no_weight_is_refused(run, capsys, word):
    with pytest.raises(SystemExit):
        main(["mixture", "set", str(run), word])
    assert "expected NAME=WEIGHT with a weight in [0, 1]" in capsys.readouterr().err


def test_a_name_is_given_once(run, capsys):
    assert main(["mixture", "set", str(run), "code=0.5", "code=0.2"]) == 2
    assert "expected each name once" in capsys.readouterr().err


def test_weights_and_requests_are_shown(run, capsys):
    write(run / "metrics.jsonl", 13)
    RequestFolder(run).submit("set", {"a": 0.5})
    assert main(["mixture", "show", str(run), "--num", "2"]) == 0
    first, *rows, rest, pending = capsys.readouterr().out.splitlines()
    weights = weights_after(12)
    largest = sorted(weights, key=lambda name: -weights[name])
    assert first == f"{run}: step 13, not training; mixture not frozen"
    assert [row.split()[0] for row in rows] == largest[:2]
    assert rest.startswith("and 1 more with 0.")
    assert pending.startswith("pending: request 1, set a=0.5, by ")
    assert main(["mixture", "show", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == weights


def test_weights_have_labels_and_are_summed_over_groups(run, capsys):
    write(run / "metrics.jsonl", 13)
    weights = weights_after(12)
    first, second, third = weights
    labels = {first: "cell, protein", "code": "def, return"}
    info = DomainInfo(tuple(weights), labels, {"code": (first, third)})
    write_domain_info(run, info)
    assert main(["mixture", "show", str(run)]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert f"{first}  {weights[first]:.6f}  cell, protein" in rows
    assert main(["mixture", "show", str(run), "--groups"]) == 0
    assert sorted(line.split() for line in capsys.readouterr().out.splitlines()[1:]) == [
        ["code", f"{weights[first] + weights[third]:.6f}", "def,", "return"],
        ["other", f"{weights[second]:.6f}"],
    ]
    assert main(["mixture", "show", str(run), "--groups", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["weights"].keys() == {"code", "other"}
    assert content["labels"] == {"code": "def, return"}


def test_sums_over_groups_need_groups(run, capsys):
    write(run / "metrics.jsonl", 13)
    assert main(["mixture", "show", str(run), "--groups"]) == 2
    assert "expected data.groups in the run's configuration, found none" in capsys.readouterr().err


def test_the_domains_of_a_basis_are_shown_below_its_weights(run, capsys):
    write(run / "metrics.jsonl", 2)
    text = (run / "metrics.jsonl").read_text()
    text = text.replace('"averaged_weights": {', '"basis_averaged_weights": {')
    update = {"type": "update", "step": 3, "averaged_weights": {"c0": 0.25, "c1": 0.75}}
    update["basis_averaged_weights"] = weights_after(3)
    train = json.dumps({"type": "train", "step": 3, "loss": 1.0})
    (run / "metrics.jsonl").write_text(f"{text}{train}\n{json.dumps(update)}\n")
    basis = tuple(weights_after(3))
    info = DomainInfo(("c0", "c1"), {"c1": "law"}, {"code": ("c0",)}, basis=basis)
    write_domain_info(run, info)
    assert main(["mixture", "show", str(run)]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert sorted(row.split()[0] for row in rows[:3]) == sorted(basis)
    assert rows[3] == "domains, as logged at step 3:"
    assert [row.split() for row in rows[4:]] == [["c1", "0.750000", "law"], ["c0", "0.250000"]]
    assert main(["mixture", "show", str(run), "--groups", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["weights"]) == set(basis)
    assert content["domains"] == {"step": 3, "weights": {"other": 0.75, "code": 0.25}}
