import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megadga.launch.supervision import Command, Ended, Timeouts, supervise

FAST = Timeouts(stop_s=20.0, straggle_s=0.3, end_s=0.3)
REPOSITORY = Path(__file__).parents[3]
IGNORES = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "


def python(program: str, folder: Path, *, standard_input: bytes | None = None) -> Command:
    return Command((sys.executable, "-c", program), os.environ, folder, standard_input)


def terminate(processes):
    for process in processes:
        os.kill(process, signal.SIGTERM)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def is_gone_soon(process: int) -> bool:
    """The kernel takes a moment to end what was killed, and nobody waits for an orphan."""
    until = time.monotonic() + 30
    while is_running(process) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_running(process)


def wait_for(path: Path) -> str:
    until = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, path
        time.sleep(0.02)
    return path.read_text()


def test_processes_run_to_their_end_in_their_folder_with_their_input(tmp_path):
    program = "import sys; open('said', 'w').writelines(sys.stdin.readline() for _ in range(2))"
    command = python(program, tmp_path, standard_input=b"$hello\n")

    ended = supervise([command], ask_to_stop=terminate, timeouts=FAST)

    assert ended == Ended(0, asked=False)
    assert (tmp_path / "said").read_text() == "$hello\n\n"  # by which it knows that it is watched


def test_a_process_that_fails_takes_the_others_along(tmp_path):
    forever = f"{IGNORES}open('pid', 'w').write(str(__import__('os').getpid())); time.sleep(60)"
    fails = (
        "import os, time\nwhile not os.path.exists('pid'): time.sleep(0.02)\nraise SystemExit(7)"
    )

    ended = supervise(
        [python(forever, tmp_path), python(fails, tmp_path)], ask_to_stop=terminate, timeouts=FAST
    )

    assert ended == Ended(7, asked=False)
    assert not is_running(int(wait_for(tmp_path / "pid")))


def test_a_process_killed_by_a_signal_has_the_code_that_a_shell_gives_it(tmp_path):
    program = "import os; os.kill(os.getpid(), 9)"
    ended = supervise([python(program, tmp_path)], ask_to_stop=terminate, timeouts=FAST)
    assert ended == Ended(137, asked=False)


def test_what_a_process_leaves_behind_in_its_session_is_ended(tmp_path):
    child = f"import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {IGNORES!r} "
    child += "'time.sleep(60)']); open('pid', 'w').write(str(p.pid))"

    supervise([python(child, tmp_path)], ask_to_stop=terminate, timeouts=FAST)

    assert is_gone_soon(int(wait_for(tmp_path / "pid")))


def test_at_the_limit_processes_are_asked_to_stop_and_get_time_to(tmp_path):
    program = (
        "import signal, time\n"
        "def stop(*_):\n    time.sleep(0.5); open('saved', 'w'); raise SystemExit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\nwhile True: time.sleep(0.05)"
    )
    timeouts = Timeouts(stop_s=20.0, limit_s=2.0)

    ended = supervise([python(program, tmp_path)], ask_to_stop=terminate, timeouts=timeouts)

    assert ended == Ended(75, asked=True)
    assert (tmp_path / "saved").exists()


def test_processes_that_do_not_stop_in_time_are_ended(tmp_path):
    timeouts = Timeouts(stop_s=0.2, end_s=0.2, limit_s=0.1)
    ended = supervise(
        [python(f"{IGNORES}time.sleep(60)", tmp_path)], ask_to_stop=terminate, timeouts=timeouts
    )
    assert ended == Ended(128 + signal.SIGTERM, asked=True)


def test_what_a_process_that_is_killed_has_started_in_other_sessions_is_killed_too(tmp_path):
    child = f"{IGNORES}import subprocess, sys; "
    child += f"p = subprocess.Popen([sys.executable, '-c', {IGNORES!r} 'time.sleep(60)'], "
    child += "start_new_session=True); open('pid', 'w').write(str(p.pid)); time.sleep(60)"
    timeouts = Timeouts(stop_s=0.1, end_s=0.2, limit_s=2.0)

    supervise([python(child, tmp_path)], ask_to_stop=terminate, timeouts=timeouts)

    assert is_gone_soon(int(wait_for(tmp_path / "pid")))


def test_a_polled_request_is_as_good_as_a_signal(tmp_path):
    ended = supervise(
        [python("import time; time.sleep(60)", tmp_path)],
        ask_to_stop=terminate,
        timeouts=FAST,
        poll_stop=lambda: FAST.stop_s,
    )
    assert ended == Ended(128 + signal.SIGTERM, asked=True)


def test_another_way_to_end_processes_is_tried_before_force(tmp_path):
    sleeps = "import time; time.sleep(60)"
    end = python("open('ended', 'w')", tmp_path)
    timeouts = Timeouts(stop_s=0.1, end_s=1.0, limit_s=0.1)

    supervise([python(sleeps, tmp_path)], ask_to_stop=lambda _: None, timeouts=timeouts, end=end)

    assert (tmp_path / "ended").exists()


SUPERVISOR = """\
import os, signal, sys
from pathlib import Path
from megadga.launch.supervision import Command, Timeouts, supervise
def stop(processes):
    for process in processes: os.kill(process, signal.SIGUSR1)
child = (sys.executable, "-c", sys.argv[1])
timeouts = Timeouts(stop_s=60.0, end_s=0.3)
command = Command(child, os.environ, Path.cwd())
sys.exit(supervise([command], ask_to_stop=stop, timeouts=timeouts).code)
"""
CHILD = """\
import os, signal, time
signal.signal(signal.SIGUSR1, lambda *_: open("asked", "w").write("x"))
open("pid", "w").write(str(os.getpid()))
while True: time.sleep(0.05)
"""


def start_supervisor(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, CHILD],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_an_interrupt_asks_to_stop_and_a_second_one_ends(tmp_path):
    supervisor = start_supervisor(tmp_path)
    child = int(wait_for(tmp_path / "pid"))

    supervisor.send_signal(signal.SIGINT)
    wait_for(tmp_path / "asked")
    assert is_running(child)
    supervisor.send_signal(signal.SIGINT)

    assert supervisor.wait(timeout=30) == 128 + signal.SIGTERM
    assert not is_running(child)


def test_processes_die_with_a_supervisor_that_is_killed(tmp_path):
    supervisor = start_supervisor(tmp_path)
    child = int(wait_for(tmp_path / "pid"))

    supervisor.kill()
    supervisor.wait(timeout=30)

    assert is_gone_soon(child)


@pytest.mark.parametrize(("inside", "after", "code"), [(30, 0, -signal.SIGALRM), (0, 0.5, 0)])
def test_a_block_that_takes_too_long_ends_its_process_whatever_it_does(inside, after, code):
    program = f"""
import signal, time
from megadga.launch.supervision import killed_after
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with killed_after(0.3):
    time.sleep({inside})
time.sleep({after})
"""

    ended = subprocess.run([sys.executable, "-c", program], check=False)

    assert ended.returncode == code
