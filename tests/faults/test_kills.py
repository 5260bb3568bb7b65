"""Runs that are killed again and again end like those that nobody has disturbed."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from megadga.launch.supervision import STOPPED
from tests.faults.comparing import assert_equal_runs
from tests.faults.kills import END, REVISION, Kill, Victim, draw_kills, strike
from tests.faults.runs import (
    FaultyRun,
    shared_buffers,
    write_faulty_run,
)
from tests.support.ranks import copy_operators
from tests.support.shards import write_sets

SEED = "MEGADGA_FAULTS_SEED"
"""Variable with the seed of the kills, to see the same ones again."""
WITH_LAUNCHER = (Victim.LAUNCHER, Victim.LAUNCHER_AT_ONCE, Victim.EVERYTHING)
END_S = 240.0
"""In which a run that lost a process must have ended, on a busy machine."""

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=4)


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_operators(tmp_path_factory.mktemp("operators") / "compiled")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_twelve_kills_leave_no_trace(
    shards: Path, operators: Path, tmp_path: Path, stage: int
) -> None:
    seed = int(os.environ.get(SEED, "0"))
    undisturbed, killed = (
        write_faulty_run(tmp_path / name, shards, operators, stage=stage)
        for name in ("undisturbed", "killed")
    )
    assert undisturbed.finish("--set=checkpoint.keep_last=null") == 0, undisturbed.end_of_log()
    buffers = shared_buffers()

    with ExitStack() as launches:
        first = Kill(REVISION, Victim.EVERYTHING, 0.001 * seed % REVISION.lasts_s, 0)
        for number, kill in enumerate((first, *draw_kills(seed, stage)), start=1):
            tell(f"ZeRO {stage}, {SEED}={seed}, kill {number} of 11: {kill}")
            assert launch_and_kill(killed, kill, launches), "it had finished before"
        tell(f"ZeRO {stage}, {SEED}={seed}, and at its end")
        launch_and_kill(killed, Kill(END, Victim.EVERYTHING, 0.0, 0), launches)
        code = killed.finish()

    assert code == 0, killed.end_of_log()
    assert_equal_runs(killed, undisturbed)
    # The last start has removed what ranks had left that were killed at theirs.
    assert shared_buffers() <= buffers


def launch_and_kill(run: FaultyRun, kill: Kill, launches: ExitStack) -> bool:
    """Start a run, or start it again, and kill it; return whether it lived to see that."""
    job = launches.enter_context(run.launched())
    has_struck = strike(run, job, kill)
    if kill.victim is Victim.LAUNCHER_AT_ONCE:
        return has_struck
    taken_s = job.wait(END_S)
    code = job.launcher.returncode
    tell(f"  at step {run.step()}; all had ended {taken_s:.1f} s later, with code {code}")
    if has_struck and kill.victim not in WITH_LAUNCHER:
        assert code not in (0, 2, STOPPED), run.end_of_log()
        assert f"the run ended with code {code}: " in run.end_of_log().splitlines()[-1]
    return has_struck


def tell(line: str) -> None:
    print(line, file=sys.__stderr__, flush=True)
