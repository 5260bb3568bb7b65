import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megadga.launch.supervision import StopSignal

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_asks_to_stop_and_nothing_more(number):
    with StopSignal() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with StopSignal():
        pass
    assert before == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]


def test_a_signal_that_was_ignored_before_is_heard():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.requested()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_launchers_file_asks_to_stop_within_a_second(tmp_path):
    path, now = tmp_path / "stop", [100.0]
    stop = StopSignal(path, clock=lambda: now[0])
    assert not stop.requested()
    path.touch()
    now[0] += 1.0
    assert stop.requested()


def test_a_launchers_file_is_not_looked_for_at_every_step(tmp_path, monkeypatch):
    looks: list[Path] = []

    def look(path: Path) -> bool:
        looks.append(path)
        return False

    monkeypatch.setattr(Path, "exists", look)
    stop = StopSignal(tmp_path / "stop", clock=iter(np.arange(0.0, 10.0, 0.01)).__next__)
    for _ in range(400):
        stop.requested()
    assert 4 <= len(looks) <= 9


def test_the_first_rank_alone_looks_for_the_launchers_file(tmp_path):
    (tmp_path / "stop").touch()
    launcher = {"MEGADGA_STOP_FILE": str(tmp_path / "stop"), "WORLD_SIZE": "2"}
    assert StopSignal.from_environment({**launcher, "RANK": "0"}).requested()
    assert not StopSignal.from_environment({**launcher, "RANK": "1"}).requested()
    assert not StopSignal.from_environment({}).requested()


def test_a_second_interrupt_ends_the_process_at_once():
    program = (
        "import os, signal\n"
        "from megadga.launch.supervision import StopSignal\n"
        "with StopSignal() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop.requested(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "True\n")


def test_a_second_interrupt_leaves_no_lock_on_an_operator(tmp_path):
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    program = (
        "import os, signal, sys\n"
        "from megadga.launch.supervision import StopSignal\n"
        "with StopSignal.from_environment(os.environ):\n"
        f"    os.open({str(lock)!r}, os.O_CREAT | os.O_EXCL)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        f"    print(os.path.exists({str(lock)!r}), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "True\n"
    assert not lock.exists()
