"""Processes that make no progress: what they write, and how they end."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megadga.run_folder.failures import first_failure
from megadga.run_folder.stacks import (
    STACKS,
    StackReport,
    describe_stall,
    format_report,
    keep_earlier_stacks,
    stack_path,
)
from megadga.run_folder.stalls import STALLED, StallWatch
from megadga.terminal import PinnedRows
from tests.support.screens import Screen

HOSTS = ("a", "b")
PROGRAM = """\
import ctypes, sys, time
from pathlib import Path
from megadga.run_folder.stalls import StallWatch

def innermost():
    {hang}

output, rank, ranks, limit_s = Path(sys.argv[1]), *map(float, sys.argv[2:])
watch = StallWatch(output, rank=int(rank), hosts=("a", "b"), limit_s=limit_s)
watch.start()
until = time.monotonic() + 1.5 * limit_s
while time.monotonic() < until or len([*(output / "stacks").iterdir()]) < ranks:
    time.sleep(0.02)
    watch.advance()
watch.enter(3, "reading the batch")
innermost()
"""
SLEEPS = "time.sleep(60)"
# Unlike CDLL, it keeps the interpreter's lock during a call.
HOLDS_THE_LOCK = "ctypes.PyDLL(None).sleep(60)"


def command(output: Path, hang: str, rank: int, *numbers: float) -> list[str]:
    """Arguments of a rank; the numbers are how many there are, and the limit in seconds."""
    program = PROGRAM.format(hang=hang)
    return [sys.executable, "-c", program, str(output), str(rank), *map(str, numbers)]


def run_until_it_stalls(output: Path, hang: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(output, hang, 0, 1, 0.4),
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_a_rank_without_progress_writes_its_stacks_reports_and_ends(tmp_path):
    ended = run_until_it_stalls(tmp_path, SLEEPS)

    assert ended.returncode == STALLED
    text = stack_path(tmp_path, 0).read_text()
    assert "rank 0 on a, process " in text
    assert "in step 3, reading the batch" in text
    assert text.index("Thread MainThread") < text.index("Thread stalls")
    assert "in innermost" in text
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{tmp_path}: no progress for 0.")
    assert (
        f"stacks of 1 of 2 ranks are in {tmp_path / STACKS}; behind: "
        "rank 1 on b (no stack: stopped or lost); rank 0 on a (step 3, reading the batch: "
        "innermost in <string>:6)"
    ) in line
    record = first_failure(tmp_path)
    assert record is not None
    assert line.partition(": ")[2] in record


def test_the_terminal_of_a_rank_that_stalls_gets_its_rows_back(tmp_path):
    with Screen(lines=6, columns=400) as screen:
        view = PinnedRows.on(screen.stream)
        assert view is not None
        view.show(["of the rank", "of the rank"])

        subprocess.run(
            command(tmp_path, SLEEPS, 0, 1, 0.4),
            check=False,
            stderr=screen.stream,
            env=os.environ | {"TERM": "xterm"},
            timeout=50,
        )

        first, *others = screen.lines()
        assert first.startswith(f"{tmp_path}: no progress for 0.")
        assert others == [""] * 5
        view.close()


def test_one_of_several_ranks_reports_and_is_recorded_first(tmp_path):
    ranks = [
        subprocess.Popen(command(tmp_path, SLEEPS, r, 2, 2.0), stderr=subprocess.PIPE, text=True)
        for r in (0, 1)
    ]
    said = [rank.communicate(timeout=50)[1] for rank in ranks]

    assert [rank.returncode for rank in ranks] == [STALLED, STALLED]
    assert said[1] == ""
    assert "stacks of 2 of 2 ranks are in " in said[0]
    record = first_failure(tmp_path)
    assert record is not None
    assert "stacks of 2 of 2 ranks are in " in record


def test_a_call_that_holds_the_interpreter_is_ended_too(tmp_path):
    ended = run_until_it_stalls(tmp_path, HOLDS_THE_LOCK)

    assert ended.returncode == STALLED
    assert "in innermost" in stack_path(tmp_path, 0).read_text()
    assert "rank 0 on a (in a call that holds the interpreter)" in describe_stall(tmp_path, HOSTS)


@pytest.mark.parametrize("limit_s", [60.0, None])
def test_a_run_that_ends_leaves_nothing_behind(tmp_path, limit_s):
    watches = [StallWatch(tmp_path, rank=r, hosts=HOSTS, limit_s=limit_s) for r in (0, 1)]
    for watch in watches:
        watch.start()
    assert stack_path(tmp_path, 1).exists() == (limit_s is not None)
    for watch in watches:
        watch.enter(1, "training")
        watch.advance()
        started = time.monotonic()
        watch.close()
        assert time.monotonic() - started < 10.0
    assert list(tmp_path.iterdir()) == []


WAITING = StackReport(0, "a", 7, 12, "training", 3.0, "all_reduce in torch/c10d.py:1", waits=True)
OTHERS = {
    "in an earlier step": replace(WAITING, rank=1, host="b", step=11),
    "not in a collective": replace(WAITING, rank=1, host="b", at="f in mine.py:2", waits=False),
}


def write(output: Path, report: StackReport) -> None:
    path = stack_path(output, report.rank)
    path.parent.mkdir(exist_ok=True)
    path.write_text(format_report(report, threads=""))


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_the_rank_behind_is_named(tmp_path, other):
    for report in (WAITING, other):
        write(tmp_path, report)

    assert describe_stall(tmp_path, HOSTS) == (
        f"stacks of 2 of 2 ranks are in {tmp_path / STACKS}; behind: {other.describe()}"
    )


def test_ranks_in_different_collectives_are_named_by_these(tmp_path):
    hosts = ("a", "a", "a")
    apart = replace(WAITING, rank=2, at="broadcast in torch/c10d.py:9")
    for report in (WAITING, replace(WAITING, rank=1), apart):
        write(tmp_path, report)

    assert describe_stall(tmp_path, hosts) == (
        f"stacks of 3 of 3 ranks are in {tmp_path / STACKS}; all wait for each other: "
        f"{WAITING.describe()}; {apart.describe()}"
    )


def test_stacks_of_an_earlier_start_are_kept(tmp_path):
    for _ in range(2):
        write(tmp_path, WAITING)
        keep_earlier_stacks(tmp_path)
    stack_path(tmp_path, 0).parent.mkdir()
    stack_path(tmp_path, 0).touch()

    keep_earlier_stacks(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"stacks.1", "stacks.2"}
