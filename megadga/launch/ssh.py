"""DeepSpeed's launcher over pdsh, on the hosts of a hostfile.

It takes a missing hostfile for this machine alone, passes on few variables and shows them in
``ps``, quotes neither the folder nor ``$``, and at Ctrl-C ends every DeepSpeed job of this user.
"""

import base64
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.launch.hosts import JOB_FROM_FILE, SSH_OPTIONS, Host, Job, LaunchContext, unreachable
from megadga.launch.options import LaunchRequest, common_parser, to_request
from megadga.launch.plan import Plan, PrivateFile, launch, requested_hosts, timeouts_for
from megadga.launch.supervision import Command

_EXPORTED = ("MLFLOW", "MV2", "NCCL", "PYTHON", "UCX")
"""What DeepSpeed would write into the command lines of ssh."""


_END_S = 45.0
"""DeepSpeed gives ranks 30 s to end."""


def ssh_plan(
    request: LaunchRequest,
    hosts: Sequence[Host],
    place: LaunchContext,
    *,
    python: str = sys.executable,
) -> Plan:
    """Return what starts a rank for every slot of every host.

    Args:
        request: The user's options.
        hosts: The machines, with as many slots each as ranks are wanted there.
        place: Where the launcher was started.
        python: The interpreter, by a path that holds on every machine.

    Raises:
        ConfigError: If a shell would take that path for something else.
    """
    _check_plain(python)
    assert request.hostfile is not None
    job = Job(
        request.train(python),
        place.variables(sum(host.slots for host in hosts)),
        place.folder,
    )
    file = PrivateFile(place.output / f".job-{place.name}.json", job.to_json())
    argument = base64.urlsafe_b64encode(str(file.path).encode()).decode()
    deepspeed = (
        *(python, "-m", "deepspeed.launcher.runner", "--launcher", "pdsh", "--force_multi"),
        *("--hostfile", str(request.hostfile.absolute())),
        *("--num_nodes", str(len(hosts)), "--num_gpus", str(hosts[0].slots)),
        *("--master_port", str(place.port), "--no_python", "--no_local_rank"),
        *(python, "-c", JOB_FROM_FILE, argument),
    )
    environment = _runner_environment(place.environment)
    # The runner has its folder written into a command line: this one needs no quotes, and is
    # there on every machine.
    root = Path("/")
    return Plan(
        (Command(deepspeed, environment, root),),
        tuple(hosts),
        timeouts=timeouts_for(request, end_s=_END_S),
        max_restarts=request.max_restarts,
        file=file,
        end=Command(_end_command(hosts, argument), environment, root),
        port=place.port,
        stop_file=place.stop_file,
        lost=partial(unreachable, hosts),
    )


def main(arguments: Sequence[str], *, prog: str = "megadga launch ssh") -> int:
    """Run ``megadga launch ssh``; return the exit code."""
    parser = common_parser(
        prog,
        "Train on the hosts of a hostfile, with DeepSpeed's launcher over pdsh and ssh.",
        hosts=True,
    )
    request = to_request(parser, parser.parse_args(arguments))

    def plan(config: RunConfig) -> Plan:
        hosts = requested_hosts(request)
        if shutil.which("pdsh") is None and not request.dry_run:
            raise ConfigError("pdsh: expected it on the search path of this machine, found none")
        return ssh_plan(request, hosts, LaunchContext.here(config.output))

    return launch(request, plan)


def _runner_environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: v for name, v in environment.items() if not name.startswith(_EXPORTED)}
    appended = (kept.get("PDSH_SSH_ARGS_APPEND", ""), *SSH_OPTIONS)
    return {
        **kept,
        "PDSH_SSH_ARGS_APPEND": " ".join(filter(None, appended)),
        "DS_ENV_FILE": os.devnull,  # ~/.deepspeed_env crashes it, or shows in `ps`
    }


def _end_command(hosts: Sequence[Host], argument: str) -> tuple[str, ...]:
    """Return what ends this launch's processes on all hosts, and those of no other."""
    pattern = f"^[^ ]+ -u -m deepspeed.launcher.launch .*{argument}"
    names = ",".join(host.name for host in hosts)
    return ("pdsh", "-R", "ssh", "-w", names, f"pkill -TERM -f '{pattern}'")


def _check_plain(python: str) -> None:
    plain = python.replace("/", "").replace(".", "").replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum()):
        raise ConfigError(
            f"{python}: expected an interpreter in a folder of letters, digits and . _ - alone, "
            "as DeepSpeed's launcher quotes nothing; move the virtual environment"
        )
