"""Runs whose file system is full, read-only, fails or stalls: nothing is lost.

Every run here ends with the bits of one that was not disturbed, the file systems are real, and the
calls that fail are those of the ranks' C library.
"""

import errno
import json
import signal
import time
from pathlib import Path

import pytest

from megadga.run_folder.checkpoints import (
    completed_checkpoints,
    find_damage,
    latest_checkpoint,
    load_header,
)
from tests.faults.filesystem import FaultyCalls, interrupt, memory_file_system, running
from tests.support.checkpoints import differing
from tests.support.runs import write_run
from tests.support.shards import write_sets

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing: {type: dga, interval: 2, preset: paper, step_size: 0.02, ema: 0.5, probe: {type: sharded}}
training: {steps: 8, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 2, sequences: 3}
checkpoint: {interval: 2, keep_last: null, pause_minutes: 5}
"""
PAUSES = "checkpoint.on_error=pause"
ASYNCHRONOUS = "checkpoint.asynchronous=true"
TIMES = ("tokens_per_s", "probe_s", "observed_overhead", "seconds", "waited_s", "bytes_per_s")
LAST = "out/checkpoints/step-00000008"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    return FaultyCalls(tmp_path_factory.mktemp("faulty"))


def new_folder(folder: Path, shards: Path) -> Path:
    folder.mkdir()
    (folder / "shards").symlink_to(shards)
    write_run(folder, RUN, zero_optimization={"stage": 2})
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shards):
    folder = new_folder(tmp_path_factory.mktemp("undisturbed") / "run", shards)
    with running(folder) as run:
        assert run.end() == [0, 0], run.text
    return folder


def records(folder, *, without=()):
    lines = (folder / "out/metrics.jsonl").read_text().splitlines()
    found = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return [
        each for each in found if each["type"] not in without and each.get("event") not in without
    ]


def assert_nothing_lost(folder, undisturbed):
    """The run in a folder has ended as the one that nothing has disturbed; its files are whole."""
    assert differing(folder / LAST, undisturbed / LAST) == []
    assert (folder / "out/DONE").exists()
    aside = ("checkpoint", "paused", "resume", "checkpoint_skipped")
    assert records(folder, without=aside) == records(undisturbed, without=aside)
    for checkpoint in completed_checkpoints(folder / "out/checkpoints"):
        assert find_damage(checkpoint, load_header(checkpoint)) is None
    assert [*(folder / "out").rglob("*.partial")] == []


def test_a_full_file_system_pauses_the_run(tmp_path, shards, undisturbed):
    folder = new_folder(tmp_path / "run", shards)
    with memory_file_system(folder / "out", "size=900k") as remount:
        with running(folder, PAUSES) as run:
            line = run.wait_for_line("paused: ", "No space left on device")
            time.sleep(5)  # several attempts
            remount("size=64m")
            assert run.end() == [0, 0], run.text
        assert " free); tries again in 1 s, until it works, a stop is requested or 5 min" in line
        assert_nothing_lost(folder, undisturbed)
        (event, *_) = [each for each in records(folder) if each.get("event") == "paused"]
        assert event["attempts"] > 2


def test_a_full_file_system_ends_the_run_where_it_was_not_asked_to_pause(
    tmp_path, shards, undisturbed
):
    folder = new_folder(tmp_path / "run", shards)
    with memory_file_system(folder / "out", "size=900k") as remount:
        with running(folder) as run:
            assert 0 not in run.end(), run.text
            assert "No space left on device" in run.text
        remount("size=64m")
        with running(folder) as run:
            assert run.end() == [0, 0], run.text
        assert_nothing_lost(folder, undisturbed)


@pytest.mark.parametrize("options", [(PAUSES,), (PAUSES, ASYNCHRONOUS)], ids=["", "asynchronous"])
def test_a_read_only_file_system_pauses_the_run(tmp_path, shards, undisturbed, options):
    folder = new_folder(tmp_path / "run", shards)
    with (
        memory_file_system(folder / "out/checkpoints", "ro") as remount,
        running(folder, *options) as run,
    ):
        run.wait_for_line("paused: checkpoint of step 2: rank 0 on ", "Read-only file system")
        remount("rw")
        assert run.end() == [0, 0], run.text
        assert_nothing_lost(folder, undisturbed)


FAULTS = (  # in the order of a run; each until the run has paused for it
    ("checkpoint of step 2: rank 1", f"write {errno.EIO} 1 step-00000002/zero_pp_rank_1"),
    ("checkpoint of step 2: rank 0", f"rename {errno.EROFS} 0 latest"),
    ("rank 0", f"write {errno.EIO} 0 metrics.jsonl"),
    ("checkpoint of step 4: rank 0", f"fsync {errno.EIO} 0 metrics.jsonl"),
    ("checkpoint of step 4: rank 0", f"open {errno.EDQUOT} 0 step-00000004/mp_rank_00_model"),
    ("checkpoint of step 6: rank 0", f"mkdir {errno.ESTALE} 0 step-00000006"),
    ("checkpoint of step 6: rank 1", f"fsync {errno.EIO} 1 step-00000006"),
    ("checkpoint of step 8: rank 0", f"fsync {errno.EIO} 0 step-00000008/megadga.json"),
    ("markers and metrics: rank 0", f"rename {errno.EIO} 0 DONE"),
)


@pytest.mark.parametrize("options", [(PAUSES,), (PAUSES, ASYNCHRONOUS)], ids=["", "asynchronous"])
def test_calls_that_fail_pause_the_run(tmp_path, shards, undisturbed, calls, options):
    """At every place where a run writes, on either rank, one after another."""
    folder = new_folder(tmp_path / "run", shards)
    calls.set(FAULTS[0][1])
    with running(folder, *options, **calls.variables) as run:
        for index, (where, fault) in enumerate(FAULTS):
            part = fault.rsplit(" ", 1)[1]
            run.wait_for_line("paused: ", where, part)
            calls.set(*(fault for _, fault in FAULTS[index + 1 : index + 2]))
        assert run.end() == [0, 0], run.text
    assert_nothing_lost(folder, undisturbed)


def test_a_stop_ends_a_pause_and_the_run_goes_on_later(tmp_path, shards, undisturbed, calls):
    folder = new_folder(tmp_path / "run", shards)
    calls.set(f"write {errno.EIO} 1 step-00000004")
    with running(folder, PAUSES, **calls.variables) as run:
        run.wait_for_line("paused: checkpoint of step 4: rank 1 on ", "Input/output error")
        interrupt(run, signal.SIGTERM)
        assert run.end() == [75, 75], run.text
    checkpoints = folder / "out/checkpoints"
    assert not (checkpoints / "step-00000004").exists()
    calls.set()
    with running(folder) as run:
        assert run.end() == [0, 0], run.text
    assert_nothing_lost(folder, undisturbed)


def test_a_file_system_that_stalls_for_a_minute_delays_the_run(
    tmp_path, shards, undisturbed, calls
):
    """Training goes on to the next checkpoint, which waits for the one before."""
    folder = new_folder(tmp_path / "run", shards)
    checkpoints = folder / "out/checkpoints"
    calls.set("fsync 0 1 step-00000004")
    with running(folder, ASYNCHRONOUS, **calls.variables) as run:
        run.wait_for_line("has taken 3", "checkpoint of step 4", "waiting for rank 1 on ")
        begun = time.monotonic()
        latest = latest_checkpoint(checkpoints)
        trained = [each["step"] for each in records(folder) if each["type"] == "train"]
        run.wait_for_line("has taken 6", "checkpoint of step 4")
        calls.set()
        assert run.end() == [0, 0], run.text
    assert time.monotonic() - begun > 25
    assert latest == checkpoints / "step-00000002"
    assert trained[-1] == 6
    assert_nothing_lost(folder, undisturbed)


def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path, shards, undisturbed, calls
):
    folder = new_folder(tmp_path / "run", shards)
    checkpoints = folder / "out/checkpoints"
    calls.set("write 0 1 step-00000004")
    with running(folder, ASYNCHRONOUS, **calls.variables) as run:
        run.wait_for_line("step 6/8")
        interrupt(run, signal.SIGKILL)
        assert run.end() == [-signal.SIGKILL] * 2
    latest = checkpoints / "step-00000002"
    incomplete = checkpoints / "step-00000004"
    assert latest_checkpoint(checkpoints) == latest
    assert find_damage(latest, load_header(latest)) is None
    assert incomplete.is_dir()
    assert not (incomplete / "megadga.json").exists()
    calls.set()
    with running(folder, ASYNCHRONOUS) as run:
        assert run.end() == [0, 0], run.text
        assert "continues after step 2" in run.text
    assert_nothing_lost(folder, undisturbed)
