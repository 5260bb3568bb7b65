import json
import shlex

from megadga.launch.hosts import JOB_FROM_INPUT, Host
from megadga.launch.torchrun import torchrun_plan
from tests.unit.launch.hosts import (
    FOLDER,
    HOSTS,
    PLACE,
    PYTHON,
    TOLD,
    TRAIN,
    echoed,
    request,
)

RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def agent(index, host):
    return [
        *(PYTHON, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"),
        *("--rdzv-backend=c10d", "--rdzv-id=launch-1", "--rdzv-endpoint=node-a:20001"),
        *(f"--rdzv-conf=is_host={int(index == 0)}", f"--local-addr={host}", "--max-restarts=3"),
        *TRAIN[2:],
    ]


def test_every_host_gets_an_agent_over_ssh():
    plan = torchrun_plan(request(max_restarts=3), HOSTS, PLACE, python=PYTHON)

    assert len(plan.commands) == 2
    for index, (command, host) in enumerate(zip(plan.commands, HOSTS, strict=True)):
        assert command.arguments[0] == "ssh"
        assert command.arguments[-2] == host.name
        assert json.loads(command.input or "") == {
            "command": [
                *(PYTHON, "-m", "megadga.launch.supervision"),
                *agent(index, host.name),
            ],
            "environment": {**TOLD, **RESTARTABLE},
            "folder": str(FOLDER),
        }


def test_a_remote_shell_makes_the_right_words_of_the_command():
    plan = torchrun_plan(request(), HOSTS, PLACE, python=PYTHON)
    remote = plan.commands[0].arguments[-1]
    assert echoed(remote) == ["exec", PYTHON, "-c", JOB_FROM_INPUT]
    assert shlex.split(remote) == echoed(remote)


def test_without_a_hostfile_the_agent_runs_here_and_restarts_by_itself():
    alone = request(hostfile=None, nodes=1, max_restarts=3)
    plan = torchrun_plan(alone, (Host("localhost", 2),), PLACE, python=PYTHON)
    (command,) = plan.commands
    assert command.arguments[:3] == (PYTHON, "-m", "torch.distributed.run")
    assert "--max-restarts=3" in command.arguments
    assert command.environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert plan.max_restarts == 0


def test_an_address_with_colons_is_bracketed_beside_a_port():
    plan = torchrun_plan(request(), (Host("fd00::1", 2), Host("b", 2)), PLACE, python=PYTHON)
    command = json.loads(plan.commands[1].input or "")["command"]
    assert "--rdzv-endpoint=[fd00::1]:20001" in command
