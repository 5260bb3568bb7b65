import argparse

import pytest

from megadga.console import count
from megadga.launch.options import (
    LaunchRequest,
    common_parser,
    duration,
    shown_duration,
    to_request,
)


def parse(*arguments, **offered):
    parser = common_parser("launch/x", "Test.", **offered)
    return to_request(parser, parser.parse_args(arguments))


def test_every_launcher_ends_in_the_same_command():
    request = parse("my $run.yaml", "--set=seed=1", "--set=output=o u", "--allow", "mixing.floor")
    assert request.train("/env/bin/python") == (
        *("/env/bin/python", "-u", "-m", "megadga.cli", "train", "my $run.yaml"),
        *("--set=seed=1", "--set=output=o u", "--allow=mixing.floor"),
    )


def test_defaults_are_one_node_without_limit():
    request = parse("run.yaml", hosts=True)
    assert request == LaunchRequest(config=request.config)


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:10:00", 600), ("1-02:03:04", 93784), ("100:00:00", 360_000)]
)
def test_a_time_is_read_as_slurm_has_it(text, seconds):
    assert duration(text) == seconds
    assert duration(shown_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["10", "10:00", "00:60:00", "1:00:00 ", "-1:00:00", "x"])
def test_a_time_of_another_form_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected HH:MM:SS"):
        duration(text)


@pytest.mark.parametrize("text", ["0", "-1", "2.0", "", "２"])
def test_a_count_is_at_least_one(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least 1"):
        count(text)


@pytest.mark.parametrize("option", ["--nodes", "--accelerators-per-node", "--time-to-save"])
@pytest.mark.parametrize("number", ["9999999999", "9" * 30, "9" * 5000])
def test_numbers_that_nobody_can_mean_end_with_2(option, number, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("run.yaml", option, number)
    assert stop.value.code == 2
    assert "expected a whole number of at least 1, at most" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["9" * 10, "9" * 30, "9" * 5000])
def test_a_time_that_nobody_can_mean_is_refused(days):
    with pytest.raises(argparse.ArgumentTypeError, match="expected HH:MM:SS"):
        duration(f"{days}-00:00:00")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run.yaml", "--time", "00:01:00"],  # no longer than it takes to save
        ["run.yaml", "--node", "2"],  # abbreviated
        ["run.yaml", "--hostfile", "h"],  # not offered
        [],
    ],
)
def test_what_contradicts_itself_or_is_not_known_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2
    assert "usage: launch/x" in capsys.readouterr().err
