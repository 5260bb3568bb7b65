"""What a launcher is about to run: shown, or run and started again. Knows no kind of cluster."""

import itertools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from megadga.cluster.failures import forget_failures, verdict
from megadga.cluster.hostfile import Host
from megadga.cluster.stopping import STOPPED
from megadga.cluster.supervision import PULSE_S, Command, Ended, Patience, supervise

USER_ERROR = 2
"""Exit code of `megadga train` for what the user can mend: starting again would not help."""

LOST = 1
"""Exit code where all processes end with 0, and the run is neither finished nor stopped."""


@dataclass(frozen=True)
class PrivateFile:
    """A file that machines share, and that only the user may read.

    Attributes:
        path: Where; its folder exists.
        text: What is in it.
    """

    path: Path
    text: str = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """What a launcher runs on this machine.

    Attributes:
        commands: Processes that belong together, at least one.
        hosts: The machines with their ranks.
        ask_to_stop: Passes on the wish that the run should save and end, to the processes' ids.
        patience: How long they get.
        max_restarts: How often they are started again after a failure.
        file: Written before, removed after; None: none.
        end: Ends the processes when they did not end by themselves; None: SIGTERM does.
        port: Where rank 0 listens, if that is known on this machine.
        lost: Names the hosts that do not answer any more, after a failure.
        stop_file: Asks ranks on any machine to stop, and is removed after; None: signals ask.
    """

    commands: tuple[Command, ...]
    hosts: tuple[Host, ...]
    ask_to_stop: Callable[[Sequence[int]], None]
    patience: Patience
    max_restarts: int = 0
    file: PrivateFile | None = None
    end: Command | None = None
    port: int | None = None
    stop_file: Path | None = None
    lost: Callable[[], Sequence[str]] = tuple

    @property
    def ranks(self) -> int:
        """How many train together."""
        return sum(host.slots for host in self.hosts)


def run(
    plan: Plan, *, output: Path, ended_well: Callable[[], bool], tell: Callable[[str], None]
) -> int:
    """Run a plan to its end; return the exit code.

    A run that failed is started again, unless the user must mend something first.

    Args:
        plan: What to run.
        output: The run's folder, where ranks note what ends them.
        ended_well: Asked when the processes end with 0: whether the run has, too.
        tell: Takes a line for the user.
    """
    if plan.file is not None:
        _write_private(plan.file)
    try:
        ended = Ended(0, asked=False)
        for restart in range(plan.max_restarts + 1):
            if restart:
                tell(f"starting again from the last checkpoint ({restart}/{plan.max_restarts})")
            forget_failures(output)
            ended = supervise(
                plan.commands,
                ask_to_stop=plan.ask_to_stop,
                patience=plan.patience,
                end=plan.end,
            )
            if ended.code == 0 and not ended_well():
                ended = replace(ended, code=LOST)  # as mpirun says nothing of a host that it lost
            if _is_final(ended):
                return ended.code
            tell(verdict(output, ended.code, plan.lost()))
        return ended.code
    finally:
        for path in (plan.stop_file, plan.file and plan.file.path):
            if path is not None:
                path.unlink(missing_ok=True)


def show(plan: Plan, environment: Mapping[str, str]) -> str:
    """Return what would run as text for a shell: files first, then a line for each process.

    Args:
        plan: What would run.
        environment: What a shell would start with: only what is set besides is shown.
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
