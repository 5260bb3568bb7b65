import base64
import json
import os
import subprocess
import sys

import pytest

from megadga.launch.hosts import JOB_FROM_FILE, JOB_FROM_INPUT, Job, LaunchContext, touch
from tests.unit.launch.hosts import HOSTILE, OUTPUT, PLACE, TOLD

REPORT = (
    "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get('GLOO_X'), "
    "os.environ.get('PYTHONPATH'), os.environ.get('LAUNCHED')]))"
)


def start(program, *, arguments=(), given=""):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=given,
        env={**os.environ, "LAUNCHED": "yes", "PYTHONPATH": "/elsewhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("from_file", [True, False])
def test_a_job_arrives_as_it_was_sent(tmp_path, from_file):
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    job = Job((sys.executable, "-c", REPORT, HOSTILE), {"GLOO_X": HOSTILE}, folder)
    if from_file:
        path = folder / "job.json"
        path.write_text(job.to_json())
        argument = base64.urlsafe_b64encode(str(path).encode()).decode()
        found = start(JOB_FROM_FILE, arguments=[argument])
    else:
        found = start(JOB_FROM_INPUT, given=job.to_json())

    assert found == [[HOSTILE], str(folder), HOSTILE, None, "yes"]


@pytest.mark.parametrize("program", [JOB_FROM_FILE, JOB_FROM_INPUT])
def test_the_program_that_takes_a_job_survives_double_quotes_and_pdsh(program):
    # DeepSpeed puts double quotes around an argument with a space; pdsh replaces %n.
    assert " " in program
    assert not set(program) & set('"$`\\%!\n')


def test_ranks_are_reported_what_they_need_and_no_secret():
    assert PLACE.variables(4) == TOLD


def test_the_stop_file_is_of_this_launch_alone(tmp_path):
    assert PLACE.stop_file == OUTPUT / ".stop-launch-1"
    touch(tmp_path / "stop")([1, 2])
    assert (tmp_path / "stop").exists()


def test_ports_are_below_those_that_linux_gives_away():
    assert all(20_000 <= LaunchContext.here(OUTPUT).port < 32_768 for _ in range(100))
