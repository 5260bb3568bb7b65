"""Launchers refuse hosts that are not fit, by name, before any rank starts."""

from pathlib import Path

import pytest

from tests.cluster.hosts import Host
from tests.cluster.runs import write_trial
from tests.support.shards import write_sets


@pytest.mark.thorough
@pytest.mark.parametrize("launcher", ["ssh", "mpi", "torchrun"])
def test_a_host_that_is_down_at_the_start_is_named(
    pair: tuple[Host, Host], tmp_path: Path, launcher: str
) -> None:
    trial = write_trial(tmp_path / "run", write_sets(tmp_path / "shards", num_domains=2))
    pair[1].cut()
    command = trial.over_two_hosts(launcher)
    done = pair[0].run(*command, env=trial.environment(), cwd=trial.folder)
    assert done.code == 2
    (line,) = done.text.splitlines()
    assert line.startswith("h2: expected to get in by ssh, found no way: ")
    assert not trial.output.exists()
