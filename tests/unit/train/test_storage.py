"""What ranks do together when a file system fails: ranks are threads, errors the system's own."""

import errno
import os
import resource
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import pytest

from megadga.errors import MegadgaError, ResumeError
from megadga.probes.saving import PendingFile
from megadga.train.metrics import MetricFanOut, MetricsFile
from megadga.train.ranks import OtherRankError
from megadga.train.storage import Storage
from megadga.train.waiting import Amount, PauseInterruptedError, StorageError, Waiting
from megadga.train.writing import CheckpointWriter
from tests.support.thread_ranks import on_ranks

FAST = {"first_delay_s": 0.01, "max_delay_s": 0.02, "round_s": 0.02, "report_after_s": 0.1}


class World:
    """The storage of two ranks, what was reported of it, and whether it is to stop."""

    def __init__(self, folder, *, pauses=True, limit_s: float | None = 20.0, stop=lambda: False):
        self.waiting = Waiting(pauses=pauses, limit_s=limit_s, limit_key="the limit", **FAST)
        self.folder, self.stop = folder, stop
        self.lines = []
        self.events = []

    def run(self, work):
        """Have both ranks run ``work(storage)``; return what it returns or raises."""

        def on_rank(ranks):
            storage = Storage(
                self.folder,
                ranks=ranks,
                waiting=self.waiting,
                stop_requested=self.stop if ranks.rank == 1 else lambda: False,
                report=self.lines.append,
            )
            try:
                return work(storage)
            finally:
                self.events.append(storage.take_events())

        return on_ranks(on_rank)


def fails_on_rank(failing, folder, *, times):
    """Work of a rank that cannot write so many times, as long as a folder is missing."""
    attempts = []

    def work(storage):
        def write():
            attempts.append(storage.ranks.rank)
            if storage.ranks.rank == failing and attempts.count(failing) <= times:
                (folder / "missing" / "file").write_text("")
            return storage.ranks.rank

        return storage.every("the work", write)

    return work, attempts


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_tries_again_while_the_others_wait(tmp_path, failing):
    work, attempts = fails_on_rank(failing, tmp_path, times=3)
    world = World(tmp_path)

    assert world.run(work) == [[0, 1], [0, 1]]

    assert sorted(attempts) == sorted([0, 1, *[failing] * 3])
    assert len(world.lines) == 3
    begin = f"paused: the work: rank {failing} on "
    assert all(line.startswith(begin) for line in world.lines)
    assert f"{tmp_path}/missing/file: No such file or directory (" in world.lines[0]
    assert " free); tries again in " in world.lines[0]
    (event,), _ = world.events
    assert (event["event"], event["what"], event["attempts"]) == ("paused", "the work", 4)


@pytest.mark.parametrize("failing", [0, 1])
def test_without_pauses_the_error_is_raised_on_every_rank_at_once(tmp_path, failing):
    work, attempts = fails_on_rank(failing, tmp_path, times=9)

    errors = World(tmp_path, pauses=False).run(work)

    assert isinstance(errors[failing], FileNotFoundError)
    assert isinstance(errors[1 - failing], OtherRankError)
    assert str(errors[1 - failing]).startswith(f"rank {failing} failed: FileNotFoundError: ")
    assert sorted(attempts) == [0, 1]


def test_an_error_that_is_not_the_file_systems_is_never_tried_again(tmp_path):
    def refuse():
        raise ResumeError("the lock of another process")

    errors = World(tmp_path).run(lambda storage: storage.first("the work", refuse))

    assert [type(error) for error in errors] == [ResumeError, ResumeError]


def test_a_pause_ends_the_run_at_its_limit(tmp_path):
    work, _ = fails_on_rank(1, tmp_path, times=10**6)

    errors = World(tmp_path, limit_s=0.1).run(work)

    assert [type(error) for error in errors] == [StorageError, StorageError]
    assert "missing/file: No such file or directory; waited for 0.00" in str(errors[0])
    assert str(errors[0]).endswith(" minutes (the limit)")


def test_a_request_to_stop_on_any_rank_ends_a_pause(tmp_path):
    work, attempts = fails_on_rank(0, tmp_path, times=10**6)

    errors = World(tmp_path, limit_s=None, stop=lambda: attempts.count(0) > 2).run(work)

    assert [type(error) for error in errors] == [PauseInterruptedError] * 2
    assert isinstance(errors[0], MegadgaError)


def test_slow_work_is_reported_with_the_rank_that_is_behind(tmp_path):
    def work(storage):
        done = Amount(3_100_000_000, 4_000_000_000) if storage.ranks.rank else Amount(8, 8)
        task = storage.start(
            "checkpoint of step 5",
            lambda: time.sleep(0.5 * storage.ranks.rank),
            amount=lambda: done,
        )
        return storage.finish(task)

    world = World(tmp_path)
    world.run(work)

    assert 1 <= len(world.lines) <= 3  # after 0.1 s, then twice as long each time
    assert "checkpoint of step 5 has taken 0 s so far, 3.1 GB of about 4.0 GB; " in world.lines[0]
    assert "waiting for rank 1 on " in world.lines[0]


def test_work_without_progress_ends_the_run(tmp_path):
    released = threading.Event()
    work = lambda storage: storage.every("the work", partial(released.wait, 10))  # noqa: E731

    errors = World(tmp_path, limit_s=0.2).run(work)

    released.set()
    assert [str(error) for error in errors] == [
        "the work: expected progress within 0 s (the limit), found none"
    ] * 2


def test_a_file_that_cannot_be_written_leaves_nothing_behind_and_is_written_later(tmp_path):
    whole, torn = (PendingFile(f"step/{name}", 4, write_text) for name in ("whole", "torn"))
    writer = CheckpointWriter(tmp_path, [whole, torn])
    (tmp_path / "step").mkdir()
    (tmp_path / "step/torn").symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left on device") as caught:
        writer.write()
    left = [path.name for path in (tmp_path / "step").iterdir()]
    amount = writer.amount()
    saved = writer.write()

    assert caught.value.filename == str(tmp_path / "step/torn")
    assert left == ["whole"]
    assert (amount.done, amount.total) == (8, 8)  # it was given to the system, which lost it
    assert {path.read_text() for path in (tmp_path / "step").iterdir()} == {"text"}
    assert {name: file.bytes for name, file in saved.items()} == {"step/whole": 4, "step/torn": 4}


def write_text(file):
    try:
        file.write(b"text")
    except OSError:  # as torch does
        raise RuntimeError("enforce fail at inline_container.cc") from None


@contextmanager
def full_after(size: int) -> Generator[None]:
    """Let files of this process grow to a size and no further: a write takes what fits."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_records_that_do_not_fit_are_written_later_whole_and_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sinks = MetricFanOut([MetricsFile(path)], retries=True)
    sinks.log(1, {"train": {"loss": 1.0}})
    first = path.read_bytes()

    with full_after(len(first) + 10):
        sinks.log(2, {"train": {"loss": 2.0}})
        sinks.log(3, {"train": {"loss": 3.0}})
        waiting, during = sinks.waiting, path.read_bytes()
        with pytest.raises(OSError, match="File too large"):
            sinks.check()
    sinks.check()

    assert waiting
    assert not sinks.failed
    assert during == first
    assert not sinks.waiting
    assert path.read_text() == "".join(
        f'{{"type": "train", "step": {step}, "loss": {step}.0}}\n' for step in (1, 2, 3)
    )


def test_without_retries_a_sink_that_fails_has_failed(tmp_path):
    sinks = MetricFanOut([MetricsFile(tmp_path / "metrics.jsonl")])

    with full_after(10):
        sinks.log(1, {"train": {"loss": 1.0}})

    assert sinks.failed
    assert not sinks.waiting
    with pytest.raises(OSError, match="File too large"):
        sinks.check()


def test_a_line_that_stayed_torn_is_cut_before_the_next(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.log(1, {"train": {"loss": 1.0}})
    with path.open("ab") as file:
        file.write(b'{"type": "tr')  # as a write that failed, and could not be taken back

    metrics.log(2, {"train": {"loss": 2.0}})

    assert [line[-5:] for line in path.read_text().splitlines()] == [" 1.0}", " 2.0}"]


def test_what_may_not_have_reached_the_disk_is_written_again(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.log(1, {"train": {"loss": 1.0}})
    metrics.sync()
    metrics.log(2, {"train": {"loss": 2.0}})
    content = path.read_bytes()
    written = path.stat().st_mtime_ns
    fsync = os.fsync

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    time.sleep(0.01)
    with pytest.raises(OSError, match="Input/output error") as caught:
        metrics.sync()
    monkeypatch.setattr(os, "fsync", fsync)

    assert caught.value.filename == str(path)
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns > written
    assert metrics.sync() == len(content)
