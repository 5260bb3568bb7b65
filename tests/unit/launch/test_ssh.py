import base64
import json
import subprocess
from pathlib import Path

import pytest

from megadga.errors import ConfigError
from megadga.launch.hosts import JOB_FROM_FILE
from megadga.launch.ssh import ssh_plan
from tests.unit.launch.hosts import (
    FOLDER,
    HOSTS,
    OUTPUT,
    PLACE,
    PYTHON,
    TOLD,
    TRAIN,
    request,
)

ARGUMENT = base64.urlsafe_b64encode(f"{OUTPUT}/.job-launch-1.json".encode()).decode()


@pytest.fixture
def plan():
    return ssh_plan(request(), HOSTS, PLACE, python=PYTHON)


def test_deepspeed_is_given_words_that_need_no_quotes(plan):
    (command,) = plan.commands
    assert command.arguments == (
        *(PYTHON, "-m", "deepspeed.launcher.runner", "--launcher", "pdsh", "--force_multi"),
        *("--hostfile", str(Path("hosts").absolute()), "--num_nodes", "2", "--num_gpus", "2"),
        *("--master_port", "20001", "--no_python", "--no_local_rank"),
        *(PYTHON, "-c", JOB_FROM_FILE, ARGUMENT),
    )
    assert command.folder == Path("/")
    assert plan.ranks == 4


def test_what_ranks_run_lies_in_a_private_file(plan):
    assert plan.file is not None
    assert plan.file.path == OUTPUT / ".job-launch-1.json"
    assert json.loads(plan.file.text) == {
        "command": list(TRAIN),
        "environment": TOLD,
        "folder": str(FOLDER),
    }


def test_deepspeed_gets_no_variable_that_it_would_show_to_everybody(plan):
    environment = plan.commands[0].environment
    assert not [name for name in environment if name.startswith(("NCCL", "PYTHON"))]
    assert environment["DS_ENV_FILE"] == "/dev/null"
    assert environment["HOME"] == "/root"


def test_a_cut_link_is_noticed(plan):
    options = plan.commands[0].environment["PDSH_SSH_ARGS_APPEND"]
    assert "-o ServerAliveInterval=10 -o ServerAliveCountMax=3" in options


def test_processes_of_this_launch_alone_are_ended(plan):
    pdsh, *options, ends = plan.end.arguments
    assert (pdsh, options) == ("pdsh", ["-R", "ssh", "-w", "node-a,node-b"])
    pattern = ends.removeprefix("pkill -TERM -f '").removesuffix("'")
    launcher = f"{PYTHON} -u -m deepspeed.launcher.launch --world_info=x -c code"
    lines = {
        f"{launcher} {ARGUMENT}": True,
        f"{launcher} {ARGUMENT[:-5]}AAA==": False,
        f"bash -c {launcher} {ARGUMENT}": False,
        f"pdsh -w a {launcher} {ARGUMENT}": False,
        " ".join(plan.commands[0].arguments): False,
    }
    for line, matches in lines.items():
        done = subprocess.run(["grep", "-qE", "--", pattern], input=line, text=True, check=False)
        assert (done.returncode == 0) is matches, line


def test_an_interpreter_that_deepspeed_would_have_to_quote_is_refused():
    with pytest.raises(ConfigError, match="expected an interpreter in a folder of letters"):
        ssh_plan(request(), HOSTS, PLACE, python="/my env/bin/python")
