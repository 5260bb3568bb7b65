"""What all launchers do with their plans: preflight, dry run, supervision, restarts."""

import itertools
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from megadga.config.deepspeed import accumulation_steps
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.console import USER_ERROR
from megadga.errors import ConfigError, MegadgaError
from megadga.launch.doctor.diagnosis import preflight
from megadga.launch.hosts import (
    LOCALHOST,
    Host,
    count_accelerators,
    first_hosts,
    read_hostfile,
    touch,
)
from megadga.launch.operators import remove_abandoned_locks
from megadga.launch.options import LaunchRequest
from megadga.launch.supervision import (
    PULSE_S,
    STOPPED,
    Command,
    Ended,
    Timeouts,
    supervise,
    terminate,
)
from megadga.run_folder.failures import clear_failures, describe_failure
from megadga.run_folder.markers import RunOutcome, finished_step, rewind_run
from megadga.terminal import release_rows

LOST = 1
"""Exit code if all processes exit with 0 although the run is neither finished nor stopped."""


@dataclass(frozen=True)
class PrivateFile:
    """A file on the shared file system, readable only by the user.

    Attributes:
        path: Its path; its folder exists.
        text: Its content.
    """

    path: Path
    text: str = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """The processes that a launcher runs on this machine.

    Attributes:
        commands: The processes, at least one.
        hosts: The machines with their ranks.
        timeouts: Time-outs for stopping.
        max_restarts: Maximum number of restarts after failures.
        file: A file to write before and remove after the run; None: none.
        end: Command that ends the processes if they do not stop; None: SIGTERM.
        port: Port of rank 0, if it is known here.
        lost: Returns the hosts that no longer respond, after a failure.
        stop_file: File that requests ranks on any machine to stop, removed after the run; None:
            signals are used.
    """

    commands: tuple[Command, ...]
    hosts: tuple[Host, ...]
    timeouts: Timeouts
    max_restarts: int = 0
    file: PrivateFile | None = None
    end: Command | None = None
    port: int | None = None
    stop_file: Path | None = None
    lost: Callable[[], Sequence[str]] = tuple

    @property
    def ranks(self) -> int:
        """Total number of ranks."""
        return sum(host.slots for host in self.hosts)


def run(
    plan: Plan, *, output: Path, ended_normally: Callable[[], bool], tell: Callable[[str], None]
) -> int:
    """Run a plan to its end; return the exit code.

    A failed run is restarted, except after a user error.

    Args:
        plan: The plan.
        output: The run's folder, with the failure records of ranks.
        ended_normally: Whether the run itself ended normally; called if all processes exit with 0.
        tell: Called with each line for the user.
    """
    if plan.file is not None:
        _write_private(plan.file)
    try:
        ended = Ended(0, asked=False)
        for restart in range(plan.max_restarts + 1):
            if restart:
                tell(f"starting again from the last checkpoint ({restart}/{plan.max_restarts})")
            clear_failures(output)
            ended = supervise(
                plan.commands,
                timeouts=plan.timeouts,
                ask_to_stop=terminate if plan.stop_file is None else touch(plan.stop_file),
                end=plan.end,
            )
            if ended.code != 0:  # a rank that was killed could not
                release_rows(sys.stderr, os.environ)
            if ended.code == 0 and not ended_normally():
                ended = replace(ended, code=LOST)  # mpirun exits with 0 after losing a host
            if _is_final(ended):
                return ended.code
            tell(describe_failure(output, ended.code, plan.lost()))
        return ended.code
    finally:
        for path in (plan.stop_file, plan.file and plan.file.path):
            if path is not None:
                path.unlink(missing_ok=True)


def show(plan: Plan, environment: Mapping[str, str]) -> str:
    """Return a plan as text for a shell: files first, then one line per process.

    Args:
        plan: The plan.
        environment: The shell's environment; only additional variables are printed.
    """
    blocks: list[str] = []
    if plan.file is not None:
        path = shlex.quote(str(plan.file.path))
        blocks.append(here_document(f"(umask 077; cat > {path})", plan.file.text))
    for command in plan.commands:
        line = show_command(command, environment)
        if command.input is not None:
            first = here_document("cat", command.input.decode())
            line = f"{{ {first}\nwhile echo; do sleep {PULSE_S:g}; done; }} | ({line})"
        blocks.append(line)
    return "\n".join(blocks)


def here_document(command: str, text: str) -> str:
    """Return a command with text as its standard input, for a shell that expands nothing in it.

    The line that ends the text is none of its own, whatever a user has put there.
    """
    lines = set(text.split("\n"))
    ends = (f"END{number or ''}" for number in itertools.count())
    end = next(end for end in ends if end not in lines)
    return f"{command} <<'{end}'\n{text.rstrip()}\n{end}"


def show_command(command: Command, environment: Mapping[str, str]) -> str:
    """Return a command as a line that a shell would run the same way."""
    unset = [f"--unset={name}" for name in environment if name not in command.environment]
    added = [
        f"{name}={value}"
        for name, value in command.environment.items()
        if environment.get(name) != value
    ]
    prefix = ("env", *unset, *added) if unset or added else ()
    return f"cd {shlex.quote(str(command.folder))} && {shlex.join((*prefix, *command.arguments))}"


def _is_final(ended: Ended) -> bool:
    return ended.asked or ended.code in (0, USER_ERROR, STOPPED)


def _write_private(file: PrivateFile) -> None:
    file.path.touch(mode=0o600, exist_ok=False)
    file.path.write_text(file.text, encoding="utf-8")


def launch(
    request: LaunchRequest,
    make_plan: Callable[[RunConfig], Plan],
    *,
    preflight: Callable[..., Sequence[str]] = preflight,
) -> int:
    """Run a launcher's plan; return its exit code.

    The configuration is validated, also against the number of ranks, before anything starts. A
    finished run is not started.

    Args:
        request: The user's options.
        make_plan: Creates the plan for a run.
        preflight: Checks the hosts of a hostfile; see the doctor's.
    """
    return exit_code_of(lambda: _launch(request, make_plan, preflight))


def exit_code_of(act: Callable[[], int]) -> int:
    """Return the exit code of an action; user errors are printed to stderr and give code 2."""
    try:
        return act()
    except MegadgaError as error:
        print(error, file=sys.stderr)
        return USER_ERROR


def is_finished(config: RunConfig, request: LaunchRequest) -> bool:
    """Return whether a run is finished, and print it; a run to be rewound is not."""
    if request.resume_from is not None:
        return False
    step = finished_step(config)
    if step is not None:
        print(f"{config.output}: finished after step {step}; nothing is left to train")
    return step is not None


def timeouts_for(request: LaunchRequest, *, end_s: float) -> Timeouts:
    """Return the time-outs of a request.

    Args:
        request: The user's options, with the time limits of the run and of saving.
        end_s: Normal duration of ending the processes.
    """
    limit_s = None if request.time_s is None else float(request.time_s - request.save_s)
    return Timeouts(stop_s=float(request.save_s), end_s=end_s, limit_s=limit_s)


def requested_hosts(request: LaunchRequest) -> tuple[Host, ...]:
    """Return the machines of a request, with as many slots as ranks will be there.

    Raises:
        ConfigError: If there is no hostfile for several nodes, or it does not suffice.
    """
    if request.hostfile is None:
        raise ConfigError(
            f"--hostfile: expected a file that lists {request.nodes} hosts, found none"
        )
    return first_hosts(
        request.hostfile,
        read_hostfile(request.hostfile),
        nodes=request.nodes,
        accelerators_per_node=request.accelerators_per_node,
    )


def hosts_or_here(request: LaunchRequest) -> tuple[Host, ...]:
    """Return the machines of a request: those of its hostfile, or this one where one is wanted.

    Raises:
        ConfigError: As ``requested_hosts`` does, or if this machine has no accelerator and no
            number of ranks is given.
    """
    if request.hostfile is None and request.nodes == 1:
        return (Host(LOCALHOST, request.accelerators_per_node or count_accelerators()),)
    return requested_hosts(request)


def _launch(
    request: LaunchRequest,
    make_plan: Callable[[RunConfig], Plan],
    preflight: Callable[..., Sequence[str]],
) -> int:
    config = load_config(request.config, request.overrides)
    if is_finished(config, request):
        return 0
    plan = make_plan(config)
    accumulation_steps(config, plan.ranks)  # refuses a batch that does not divide among them
    if request.dry_run:
        print(show(plan, os.environ))
        return 0
    if request.hostfile is not None and plan.port is not None:
        failures = preflight(plan.hosts, output=config.output.absolute(), port=plan.port)
        if failures:
            raise ConfigError("\n".join(failures))
    if request.resume_from is not None:
        rewind_run(config, request.resume_from)
    if plan.stop_file is not None:
        make_output(config)
    outcome = RunOutcome(config)
    started = time.time()
    code = run(
        plan,
        output=config.output,
        ended_normally=outcome.ended_normally,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for lock in remove_abandoned_locks(os.environ, since=started):
        print(f"removed {lock}, which a rank that was ended has left", file=sys.stderr)
    # Intermediate launchers change exit codes; the marker in the run's folder is authoritative.
    return STOPPED if outcome.stopped() else code


def make_output(config: RunConfig) -> None:
    """Create the run's folder on the shared file system."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise config.invalid(
            "output", expected="a folder that can be written", found=error.strerror or str(error)
        ) from None
