"""The trial of selection: what is finished is not done again."""

import subprocess
from argparse import Namespace

import pytest

from bench_selection import _beginning, _open_trial, arms
from megadga.errors import ConfigError


def options(folder, *, steps=4):
    return Namespace(
        folder=folder, text=100, preset="nano", steps=steps, keep=0.3, target=["a", "b"], seeds=3
    )


def test_a_command_that_ended_well_is_not_run_again(tmp_path, monkeypatch):
    trial = _open_trial(options(tmp_path), [])
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "half").touch()
    run: list[list[str]] = []

    def recorded(command, **_):
        assert not (tmp_path / "made").exists()  # of an attempt that did not end
        run.append(command[3:])
        if len(run) == 1:
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", recorded)
    with pytest.raises(subprocess.CalledProcessError):
        trial.megadga("data", "select", "all", makes="made")
    for _ in range(2):
        trial.megadga("data", "select", "all", makes="made")
        (tmp_path / "made").mkdir(exist_ok=True)

    assert run == [["data", "select", "all"]] * 2
    assert (tmp_path / "made").exists()


def test_a_trial_of_other_options_is_refused_but_more_seeds_go_on(tmp_path):
    _open_trial(options(tmp_path), [])
    more = options(tmp_path)
    more.seeds = 9
    assert _open_trial(more, []).steps == 4
    with pytest.raises(ConfigError, match=r"trial.json: expected the options of this trial"):
        _open_trial(options(tmp_path, steps=5), [])


def test_both_arms_of_dga_differ_in_their_shards_alone():
    found = arms(0.3)
    assert found["dga-domains"].mixing == found["dga-tiers"].mixing
    assert found["dga-domains"].select == ()
    assert {name for name, arm in found.items() if arm.sampled} == {"random", "density"}


def test_a_file_is_read_until_it_has_enough_bytes():
    assert list(_beginning([b"aa\n", b"bb\n", b"cc\n"], 4)) == [b"aa\n", b"bb\n"]
