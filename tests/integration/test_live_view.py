"""A run on a terminal, read from its screen: a view comes, stays below what is said, and goes."""

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from megadga.launch.supervision import STOPPED
from tests.support.ranks import rank_environment
from tests.support.runs import write_run
from tests.support.screens import Screen
from tests.support.shards import write_sets
from tests.support.warm import WarmProcess

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing: {type: dga, preset: paper, interval: 2, step_size: 0.5, probe: {type: sharded,
  sequences_per_domain: 2, specific_sequences: 3}}
training: {steps: 100000, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 5, sequences: 3}
checkpoint: null
"""
SIZE = {"lines": 24, "columns": 80}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    write_sets(folder / "shards", num_domains=3)
    return write_run(folder, RUN).parent


@contextmanager
def training(folder: Path, screen: Screen, *overrides: str, **variables: str):
    """Train on a terminal, which is the run's own: keys are its signals."""
    arguments = ["megadga.cli", "train", "run.yaml", *(f"--set={each}" for each in overrides)]
    with WarmProcess(
        [sys.executable, "-m", *arguments],
        folder=folder,
        environment=rank_environment(**{"TERM": "xterm-256color", **variables}),
        output=Path(os.ttyname(screen.stream.fileno())),
    ) as process:
        yield process


def wait_for(condition, screen: Screen, process: WarmProcess) -> None:
    """Wait until a condition holds, or the process has ended."""
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, screen.lines()
        assert process.poll() is None, screen.lines()
        screen.lines()  # nothing blocks a terminal that is read
        time.sleep(0.02)


def wait_for_end(screen: Screen, process: WarmProcess) -> None:
    until = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < until, screen.lines()
        screen.lines()
        time.sleep(0.02)


def test_a_view_shows_a_run_below_what_is_said_and_ends_with_it(folder):
    with Screen(**SIZE) as screen, training(folder, screen) as process:
        wait_for(lambda: any("since 0" in line for line in screen.lines()), screen, process)
        screen.write("from another process\n")
        again = screen.lines()
        wait_for(lambda: screen.lines()[-10:] != again[-10:], screen, process)
        lines = screen.lines()

        title = next(at for at, line in enumerate(lines) if "━━ out, 1 rank on cpu ━" in line)
        view = lines[title:]
        assert title >= SIZE["lines"] // 2
        assert view[1].startswith("step ")
        assert "/100,000 " in view[1]
        assert view[2].startswith("training  loss ")
        assert view[3].startswith("validation at ")
        assert view[4].startswith("weights at ")
        assert sorted(line.split()[0] for line in view[5:8]) == ["d0", "d1", "d2"]
        above = lines[:title]
        assert "from another process" in above
        assert any(": validation target" in line for line in above)
        assert screen.colours() > {"default"}

        screen.press("\x03")
        wait_for_end(screen, process)

        assert process.poll() == STOPPED
        after = screen.lines()
        assert not any("━━" in line for line in after)
        assert any("; the same command continues" in line for line in after)
        line, _, hidden = screen.cursor()
        assert not hidden
        assert after[line:] == [""] * (SIZE["lines"] - line)
        screen.write("\n" * 30 + "last")
        assert screen.lines()[-1] == "last"  # all rows scroll again


def test_a_terminal_may_have_no_colours_and_another_size(folder):
    overrides = ("output=other",)
    with (
        Screen(lines=12, columns=40) as screen,
        training(folder, screen, *overrides, NO_COLOR="1") as process,
    ):
        wait_for(lambda: any("/100,000" in line for line in screen.lines()), screen, process)
        assert screen.colours() == {"default"}
        screen.resize(30, 60)
        wait_for(lambda: any("since 0" in line for line in screen.lines()), screen, process)
        assert sum(line.startswith("weights at ") for line in screen.lines()) == 1
        screen.press("\x03")
        wait_for_end(screen, process)


def test_a_terminal_without_a_cursor_gets_lines(folder):
    overrides = ("output=dumb", "training.steps=2")
    with Screen(lines=60, columns=150) as screen:
        with training(folder, screen, *overrides, TERM="dumb") as process:
            wait_for_end(screen, process)
            assert process.poll() == 0, screen.lines()
        told = screen.lines()
    assert told[0] == "dumb: 2 steps, 1 rank on cpu"
    assert told[1].startswith("step 1/2  loss ")
    assert "dumb: step 2 of 2, finished" in told
