"""Starts both sides of a case and lets them train in turns."""

import multiprocessing
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .case import SIDES, Case, Row, Side
from .loops import write_run
from .turns import Memory, Turn, order_of_round, row_of
from .worker import run_rank

_IMPORTED = (
    "torch._dynamo",
    "deepspeed",
    "transformers.models.llama.modeling_llama",
    "megadga.train.assembly",
    "megadga.train.loop",
)
_WARM_UP_STEPS = 3
_TURNS = 20
"""That the seconds of a case are divided into, if a step does not take longer."""


class Group:
    """The ranks of one side, which wait while the other one trains.

    Args:
        connections: To each rank.
        log: What they print.
    """

    def __init__(self, connections: Sequence[Connection], log: Path) -> None:
        self._connections = tuple(connections)
        self._log = log

    def wait(self) -> None:
        """Wait until the engine is there."""
        self._answers()

    def train(self, steps: int) -> list[Turn]:
        """Train some steps; return what each rank has measured."""
        for connection in self._connections:
            connection.send(steps)
        return self._answers()

    def end(self) -> list[Memory]:
        """End the ranks; return the memory of each."""
        for connection in self._connections:
            connection.send(None)
        return self._answers()

    def _answers(self) -> list[Any]:
        try:
            return [connection.recv() for connection in self._connections]
        except EOFError:
            raise SystemExit(
                f"{self._log.read_text()[-6000:]}\nexpected ranks to end well, found an error"
            ) from None


def make_context(*, accelerator: bool) -> BaseContext:
    """Return how processes are started.

    On a CPU they are forked from one that has imported everything, which takes most of the time
    of a short case otherwise. A device's context does not survive a fork.
    """
    if accelerator:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    return context


def compare(
    case: Case,
    *,
    context: BaseContext,
    seconds: float,
    min_rounds: int,
    tell: Callable[[int], None],
) -> Row:
    """Train both sides in turns; return what was found.

    Args:
        case: What is trained; its folder is made, and must not exist.
        context: From :func:`make_context`.
        seconds: That turns take together, about.
        min_rounds: How many there are at least, whatever they take; at least 2.
        tell: Called with the number of rounds after each.

    Raises:
        SystemExit: If a rank fails; its output is the message.
    """
    case.folder.mkdir(parents=True)
    write_run(case)
    turns: dict[Side, list[list[Turn]]] = {side: [] for side in SIDES}
    with _group(case, "megadga", context) as ours, _group(case, "transformers", context) as theirs:
        groups: Mapping[Side, Group] = {"megadga": ours, "transformers": theirs}
        for group in groups.values():
            group.wait()
        for group in groups.values():
            group.train(_WARM_UP_STEPS)
        one = max(group.train(1)[0].seconds for group in groups.values())
        steps = max(1, round(seconds / _TURNS / one))
        until = time.monotonic() + seconds
        while len(turns["megadga"]) < min_rounds or time.monotonic() < until:
            for side in order_of_round(len(turns["megadga"])):
                turns[side].append(groups[side].train(steps))
            tell(len(turns["megadga"]))
        memory: dict[Side, list[Memory]] = {side: groups[side].end() for side in SIDES}
    return row_of(case, turns, memory)


@contextmanager
def _group(case: Case, side: Side, context: BaseContext) -> Generator[Group]:
    """Start a side's ranks; what is left of them at the end is killed."""
    port = _free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(case.ranks), "LOCAL_WORLD_SIZE": str(case.ranks)}
    starting: Any = context  # each kind has a Process of its own
    connections: list[Connection] = []
    processes: list[Any] = []
    with TemporaryDirectory() as name:
        log = Path(name) / "log"
        try:
            for rank in range(case.ranks):
                own, other = context.Pipe()
                environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                arguments = (other, side, case, environment, log)
                process: Any = starting.Process(target=run_rank, args=arguments)
                process.start()
                other.close()
                connections.append(own)
                processes.append(process)
            yield Group(connections, log)
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.kill()
                process.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
