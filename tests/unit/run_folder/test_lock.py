import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from megadga.errors import LockedError
from megadga.run_folder.lock import RunLock, living_owner

BEAT_S = 0.05
HOLD = """
import sys, time
from pathlib import Path
from megadga.run_folder.lock import RunLock
lock = RunLock(Path(sys.argv[1]), heartbeat_s=float(sys.argv[2]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


def lock_of(folder, told=None):
    return RunLock(folder, report=(told if told is not None else []).append, heartbeat_s=BEAT_S)


@contextmanager
def held_elsewhere(folder):
    """Another process has the lock; yields it."""
    command = [sys.executable, "-c", HOLD, str(folder), str(BEAT_S)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def owner_elsewhere(folder, beat=0):
    """Write down what a process on another machine would."""
    owner = {
        "host": "node-7",
        "process": 4711,
        "started": "1",
        "boot_id": "another",
        "since": "now",
    }
    (folder / ".lock").write_text(json.dumps({**owner, "heartbeat": beat}))


@contextmanager
def beating_elsewhere(folder):
    """A process on another machine lives, and no lock of the system says so."""
    ended = threading.Event()

    def beat():
        count = 0
        while not ended.wait(BEAT_S):
            owner_elsewhere(folder, count := count + 1)

    owner_elsewhere(folder)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that knows no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_a_folder_is_locked_for_every_other_process_and_names_its_owner(tmp_path):
    with held_elsewhere(tmp_path) as process, pytest.raises(LockedError) as caught:
        lock_of(tmp_path).acquire()

    assert str(caught.value).startswith(
        f"{tmp_path}: expected no other process that trains here, "
        f"found process {process.pid} on {socket.gethostname()}, since 20"
    )


def test_a_refused_process_leaves_the_owner_its_lock(tmp_path):
    with held_elsewhere(tmp_path):
        for _ in range(2):
            with pytest.raises(LockedError):
                lock_of(tmp_path).acquire()


def test_a_lock_is_released_when_its_owner_ends(tmp_path):
    told = []
    with held_elsewhere(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        lock = lock_of(tmp_path, told)
        lock.acquire()

    assert [f"process {process.pid} on" in line for line in told] == [True]
    lock.release()


def test_a_released_lock_is_acquired_silently(tmp_path):
    with held_elsewhere(tmp_path) as process:
        process.communicate("")
    told = []
    lock = lock_of(tmp_path, told)
    lock.acquire()
    lock.release()
    lock.release()

    assert told == []
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_remote_owner_with_heartbeats_is_alive(tmp_path):
    with beating_elsewhere(tmp_path), pytest.raises(LockedError, match="process 4711 on node-7"):
        lock_of(tmp_path).acquire()


def test_a_remote_owner_without_heartbeats_has_ended(tmp_path):
    owner_elsewhere(tmp_path)
    told = []
    lock = lock_of(tmp_path, told)
    lock.acquire()
    lock.check()
    lock.release()

    assert "watching" in told[0]
    assert "process 4711 on node-7" in told[1]


def test_a_stale_server_side_lock_is_replaced(tmp_path):
    with held_elsewhere(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)  # it beats no more, and the system keeps its lock
        owner_elsewhere(tmp_path)
        lock = lock_of(tmp_path)
        lock.acquire()
        lock.check()

        with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            attempt_elsewhere(tmp_path)
        lock.release()


def attempt_elsewhere(folder):
    code = HOLD.replace(
        "lock.acquire()", "try: lock.acquire()\nexcept Exception as e: exit(str(e))"
    )
    command = [sys.executable, "-c", code, str(folder), str(BEAT_S)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, input="")
    if done.returncode:
        raise LockedError(done.stderr)


def test_a_suspended_owner_detects_that_its_lock_was_taken_over(tmp_path):
    lock = lock_of(tmp_path)
    lock.acquire()
    lock.check()
    owner_elsewhere(tmp_path)  # it took over where the system's locks do not reach
    time.sleep(3 * BEAT_S)

    with pytest.raises(LockedError, match="expected the lock of this process, found process 4711"):
        lock.check()
    assert "node-7" in (tmp_path / ".lock").read_text()


def test_without_file_locks_the_heartbeat_decides(tmp_path, no_locks):
    with beating_elsewhere(tmp_path), pytest.raises(LockedError, match="node-7"):
        lock_of(tmp_path).acquire()


@pytest.mark.usefixtures("no_locks")
def test_without_file_locks_a_local_process_is_looked_up(tmp_path):
    with held_elsewhere(tmp_path) as process:
        with pytest.raises(LockedError, match=f"process {process.pid}"):
            lock_of(tmp_path).acquire()
        process.kill()
        process.wait()
        lock = lock_of(tmp_path)
        lock.acquire()

    lock.check()
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', "\x00" * 600])
def test_a_lock_file_without_owner_does_not_lock(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    lock = lock_of(tmp_path)
    lock.acquire()
    lock.check()
    lock.release()


def test_who_trains_is_seen_without_the_lock(tmp_path):
    assert living_owner(tmp_path) is None
    with held_elsewhere(tmp_path) as process:
        assert f"process {process.pid} on" in str(living_owner(tmp_path))
        process.kill()
        process.wait()
        assert living_owner(tmp_path) is None  # although its name is still there


def test_an_owner_on_another_machine_is_taken_at_its_word(tmp_path):
    owner_elsewhere(tmp_path)
    assert str(living_owner(tmp_path)).startswith("process 4711 on node-7")
