"""Runs of which one rank goes wrong, on two ranks: it differs, or does not come."""

import json
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from megadga.run_folder.failures import first_failure
from megadga.run_folder.stacks import read_report, stack_path
from megadga.run_folder.stalls import STALLED
from tests.support.ranks import environments_of_ranks, rank_environment, remove_shared_buffers
from tests.support.runs import write_run
from tests.support.shards import write_sets
from tests.support.warm import WarmProcess

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data: {domains: shards/domains}
mixing: {type: uniform}
training: {steps: 6, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: null
checkpoint: {interval: 4, keep_last: 1}
"""
WORKER = "tests.integration.workers.tampered_runs"
LIMIT_MINUTES = 0.15
CASES = {
    "weights": ("weights", 3, []),
    "batch": ("batch", 3, []),
    "parameter": ("parameter", 4, []),
    "unwatched": ("parameter", 4, ["watch.compare_parameters=false"]),
    # The last: it ends the processes.
    "stopped": ("stopped", 3, [f"watch.no_progress_minutes={LIMIT_MINUTES}"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs were, and how rank 0, which was tampered with in none, has ended."""
    folder: Path = tmp_path_factory.mktemp("tampered")
    write_sets(folder / "shards", num_domains=2)
    write_run(folder, RUN, zero_optimization={"stage": 2})
    environments = environments_of_ranks(2)
    command = [sys.executable, "-m", WORKER, json.dumps(CASES)]
    until = time.monotonic() + 240
    with ExitStack() as stack:
        first, _ = [
            stack.enter_context(
                WarmProcess(
                    command,
                    folder=folder,
                    environment=rank_environment(**environment),
                    output=folder / "log.txt",
                )
            )
            for environment in environments
        ]
        while (code := first.poll()) is None and time.monotonic() < until:
            time.sleep(0.05)
    remove_shared_buffers(int(environments[0]["MASTER_PORT"]))
    assert code == STALLED, (folder / "log.txt").read_text()[-6000:]
    return folder


@pytest.mark.parametrize(
    ("name", "when", "what"),
    [
        ("weights", "step 4", "weights"),
        ("batch", "step 4", "batch"),
        ("parameter", "step 4", "parameter norm.weight"),
    ],
)
def test_a_rank_that_differs_ends_the_run_at_once_and_is_named(folder, name, when, what):
    first, second = ((folder / f"{name}-{rank}.txt").read_text() for rank in (0, 1))
    host = socket.gethostname()
    assert first == second
    assert first.startswith(f"RanksDifferError: {when}: expected what rank 0 on {host} has, ")
    assert first.endswith(f"found other values on rank 1 on {host} ({what})")
    assert not (folder / name / "checkpoints/latest").exists()


def test_parameters_are_compared_only_if_asked_for(folder):
    assert (folder / "unwatched-0.txt").read_text() == "nothing"


def test_a_rank_that_waits_for_a_stopped_one_writes_its_stacks_and_ends(folder):
    output = folder / "stopped"
    report = read_report(stack_path(output, 0))
    assert report is not None
    assert report.waits
    assert (report.step, report.idle_s >= LIMIT_MINUTES * 60.0) == (4, True)
    assert "all_reduce" in stack_path(output, 0).read_text()
    assert stack_path(output, 1).read_text() == ""
    last = (folder / "log.txt").read_text().splitlines()[-1]
    host = socket.gethostname()
    assert last.startswith("stopped: no progress for ")
    assert last.endswith(
        f"stacks of 1 of 2 ranks are in stopped/stacks; behind: rank 1 on {host} "
        "(no stack: stopped or lost)"
    )
    failure = first_failure(output)
    assert failure is not None
    assert failure.endswith("(no stack: stopped or lost)")
