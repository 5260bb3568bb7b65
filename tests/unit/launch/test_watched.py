import subprocess
import sys
import time
from contextlib import contextmanager

from tests.support.ranks import REPOSITORY, own_session, rank_environment

WATCH = """\
import sys
from megadga.launch.supervision import run_watched
sys.exit(run_watched(sys.argv[2:], silence_s=float(sys.argv[1])))
"""


@contextmanager
def watched(program, folder, *, silence_s=20.0):
    command = [sys.executable, "-c", WATCH, str(silence_s), sys.executable, "-c"]
    with own_session(
        [*command, program],
        cwd=folder,
        env=rank_environment(PYTHONPATH=str(REPOSITORY)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield process


def test_a_command_ends_with_its_own_code(tmp_path):
    with watched("raise SystemExit(7)", tmp_path) as process:
        assert process.wait(timeout=60) == 7
        process.communicate()


def test_a_command_ends_when_nobody_holds_its_input_any_more(tmp_path):
    program = "import time; print('started', flush=True); time.sleep(600)"
    with watched(program, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.communicate(timeout=60)  # which closes its input
    assert process.returncode == 128 + 15


def test_a_command_ends_when_nothing_comes_over_its_input_any_more(tmp_path):
    program = "import time; print('started', flush=True); time.sleep(600)"
    with watched(program, tmp_path, silence_s=1.0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        for _ in range(6):
            process.stdin.write(b"\n")
            process.stdin.flush()
            time.sleep(0.3)
            assert process.poll() is None
        assert process.wait(timeout=60) == 128 + 15
        process.communicate()
