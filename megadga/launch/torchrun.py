"""torchrun's agents, one on every host of a hostfile, or one on this machine.

They meet at the first host, start the ranks, and start them again when one of them fails.
"""

import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial

from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.launch.hosts import JOB_FROM_INPUT, SSH_OPTIONS, Host, Job, LaunchContext, unreachable
from megadga.launch.options import LaunchRequest, common_parser, to_request
from megadga.launch.plan import Plan, hosts_or_here, launch, timeouts_for
from megadga.launch.supervision import Command

_WATCHED = "megadga.launch.supervision"


_END_S = 60.0
"""An agent gives its ranks 30 s to end, and is itself given 45."""


_RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Ranks that are started again must not meet in the store where the failed ones left keys."""


def torchrun_plan(
    request: LaunchRequest,
    hosts: Sequence[Host],
    place: LaunchContext,
    *,
    python: str = sys.executable,
) -> Plan:
    """Return what starts an agent on every host.

    Args:
        request: The user's options.
        hosts: The machines, with as many slots each as ranks are wanted there.
        place: Where the launcher was started.
        python: The interpreter, by a path that holds on every machine.
    """
    variables = {**place.variables(sum(host.slots for host in hosts)), **_RESTARTABLE}
    if request.hostfile is None:
        agent = _agent(request, hosts, 0, place, python)
        commands = (Command(agent, {**place.environment, **variables}, place.folder),)
    else:
        commands = tuple(
            Command(
                _over_ssh(host, python),
                place.environment,
                place.folder,
                Job(
                    (python, "-m", _WATCHED, *_agent(request, hosts, index, place, python)),
                    variables,
                    place.folder,
                )
                .to_json()
                .encode(),
            )
            for index, host in enumerate(hosts)
        )
    return Plan(
        commands,
        tuple(hosts),
        timeouts=timeouts_for(request, end_s=_END_S),
        port=place.port,
        stop_file=place.stop_file,
        lost=tuple if request.hostfile is None else partial(unreachable, hosts),
    )


def main(arguments: Sequence[str], *, prog: str = "megadga launch torchrun") -> int:
    """Run ``megadga launch torchrun``; return the exit code."""
    parser = common_parser(
        prog,
        "Train under torchrun (elastic, c10d): an agent on each host of a hostfile, started over "
        "ssh, or without one on this machine.",
        hosts=True,
    )
    request = to_request(parser, parser.parse_args(arguments))

    def plan(config: RunConfig) -> Plan:
        over_ssh = request.hostfile is not None or request.nodes > 1
        if over_ssh and not request.dry_run and shutil.which("ssh") is None:
            raise ConfigError("ssh: expected it on the search path of this machine, found none")
        return torchrun_plan(request, hosts_or_here(request), LaunchContext.here(config.output))

    return launch(request, plan)


def _agent(
    request: LaunchRequest, hosts: Sequence[Host], index: int, place: LaunchContext, python: str
) -> tuple[str, ...]:
    """Return the command of the agent on host ``index``."""
    host = hosts[index]
    return (
        *(python, "-m", "torch.distributed.run"),
        *(f"--nnodes={len(hosts)}", f"--nproc-per-node={host.slots}"),
        *("--rdzv-backend=c10d", f"--rdzv-id={place.name}"),
        f"--rdzv-endpoint={_bracketed(hosts[0].name)}:{place.port}",
        # Said rather than found out from names, which differ from how others see a host.
        *(f"--rdzv-conf=is_host={int(index == 0)}", f"--local-addr={host.name}"),
        f"--max-restarts={request.max_restarts}",
        *request.module(),
    )


def _over_ssh(host: Host, python: str) -> tuple[str, ...]:
    remote = shlex.join(("exec", python, "-c", JOB_FROM_INPUT))
    return ("ssh", *SSH_OPTIONS, "-T", host.name, remote)


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
