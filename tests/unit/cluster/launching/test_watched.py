import subprocess
import sys
from contextlib import contextmanager

from tests.support.ranks import REPOSITORY, own_session, rank_environment


@contextmanager
def watched(program, folder):
    command = [sys.executable, "-m", "megadga.cluster.launching.watched", sys.executable, "-c"]
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
