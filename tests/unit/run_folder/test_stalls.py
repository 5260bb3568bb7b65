"""Processes that make no progress: what they write, and how they end."""

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

HOSTS = ("a", "b")
PROGRAM = """\
import ctypes, sys, time
from pathlib import Path
from megadga.run_folder.stalls import StallWatch

def innermost():
    {hang}

watch = StallWatch(Path(sys.argv[1]), rank=0, hosts=("a", "b"), limit_s=0.4)
watch.start()
for _ in range(6):
    time.sleep(0.1)  # longer than the limit in all
    watch.advance()
watch.enter(3, "reading the batch")
innermost()
"""
SLEEPS = "time.sleep(60)"
# Unlike CDLL, it keeps the interpreter's lock during a call.
HOLDS_THE_LOCK = "ctypes.PyDLL(None).sleep(60)"


def run_until_it_stalls(output: Path, hang: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hang=hang), str(output)],
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
