"""Runs stages in processes of their own, cuts them off, and keeps a record of what they found."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from .expected import verdicts
from .plan import Stage, first_group
from .setting import Row, Setting

WORKER = (sys.executable, "-m", "gpu_checks.worker")
_TOOLS = Path(__file__).parents[1]
_START_S = {"cuda": 120.0, "cpu": 600.0}
"""Until a process has imported torch and DeepSpeed, which compiles an operator once on a CPU."""
_POLL_S = 0.1


@final
@dataclass
class Record:
    """What ``gpu.json`` says; written whole after every change.

    Attributes:
        path: Of the file.
        head: What the check is of: date, commit, command.
        stages: By name, with status, seconds, error and rows.
    """

    path: Path
    head: Row
    stages: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def update(self, stage: str, **values: Any) -> None:
        """Set what is known of a stage."""
        self.stages.setdefault(stage, {"rows": []}).update(values)
        self.write()

    def add(self, stage: str, row: Row) -> None:
        """Add a measurement."""
        self.stages[stage]["rows"].append(row)
        self.write()

    @property
    def rows(self) -> list[Row]:
        """All measurements."""
        return [row for stage in self.stages.values() for row in stage["rows"]]

    def write(self) -> None:
        """Write the file."""
        found = {**self.head, "expected": verdicts(self.rows), "stages": self.stages}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n")
        partial.rename(self.path)


@final
class Supervisor:
    """Runs the stages of one check.

    Args:
        setting: Of the check.
        record: Takes what is found.
        log: File that processes print to.
        ends_at: When the whole check has to be over, by ``time.monotonic``.
        report: Takes lines for the console.
        worker: The command that runs stages on one rank.
    """

    def __init__(
        self,
        setting: Setting,
        record: Record,
        *,
        log: Path,
        ends_at: float,
        report: Callable[[str], None],
        worker: Sequence[str] = WORKER,
    ) -> None:
        self._setting = setting
        self._record = record
        self._log = log
        self._ends_at = ends_at
        self._report = report
        self._worker = tuple(worker)

    def run(self, stages: Sequence[Stage]) -> None:
        """Run every stage that there is time for."""
        for stage in stages:
            self._record.update(stage.name, shows=stage.shows, status="not started", error=None)
        pending = tuple(stages)
        while pending and self._left_s() > 0.0:
            group = first_group(pending)
            num_ended = self._run_group(group)
            if num_ended == 0 and group[0].ranks > 1:  # NCCL refuses two ranks on one device
                num_ended = self._run_group(group, backend="gloo")
            pending = pending[max(1, num_ended) :]

    def _left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def _run_group(self, group: Sequence[Stage], backend: str = "") -> int:
        """Return how many of the stages have ended, well or not; 0: none has begun."""
        backend = backend or ("nccl" if self._setting.device == "cuda" else "gloo")
        events = self._setting.scratch / f"events-{group[0].name}-{backend}.jsonl"
        events.touch()
        port = _free_port()
        with self._log.open("ab") as sink:
            processes = [
                subprocess.Popen(  # noqa: S603  (our own worker)
                    self._command(group, events, backend),
                    env=variables,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
                for variables in _environments(group[0].ranks, port, quick=self._setting.quick)
            ]
        try:
            return self._watch(processes, group, events)
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):  # noqa: S108
                buffer.unlink(missing_ok=True)  # 69 MB that DeepSpeed leaves behind on a CPU

    def _command(self, group: Sequence[Stage], events: Path, backend: str) -> list[str]:
        limits = [f"{stage.name}={min(stage.limit_s, self._left_s()):.1f}" for stage in group]
        setting = self._setting.to_json()
        return [*self._worker, setting, str(events), backend, *limits]

    def _watch(
        self, processes: Sequence["subprocess.Popen[bytes]"], group: Sequence[Stage], events: Path
    ) -> int:
        """Follow the events until the processes have ended or a stage's time is over."""
        began, limit_s = time.monotonic(), min(_START_S[self._setting.device], self._left_s())
        current: Stage | None = None
        num_ended = num_read = 0
        while True:
            exits = [process.poll() for process in processes]
            lines = events.read_text().splitlines()
            for event in map(json.loads, lines[num_read:]):
                name = event["stage"]
                match event["event"]:
                    case "begin":
                        current = next(stage for stage in group if stage.name == name)
                        began = time.monotonic()
                        limit_s = min(current.limit_s, self._left_s())
                        self._record.update(name, status="running")
                    case "row":
                        self._record.add(name, event["row"])
                    case _:
                        self._end(name, began, event["error"])
                        num_ended, current = num_ended + 1, None
                        began, limit_s = (
                            time.monotonic(),
                            min(_START_S[self._setting.device], self._left_s()),
                        )
            num_read = len(lines)
            if None not in exits or any(exits):
                if current is not None:
                    self._end(current.name, began, f"ended with {exits}: {self._last_lines()}")
                    num_ended += 1
                elif not num_ended:
                    text = f"ended with {exits} before it began: {self._last_lines()}"
                    self._end(group[0].name, began, text)
                return num_ended
            if time.monotonic() - began > limit_s:
                stage = current or group[min(num_ended, len(group) - 1)]
                self._record.update(stage.name, status="cut off", seconds=time.monotonic() - began)
                self._report(f"{stage.name}: cut off after {limit_s:.0f} s")
                return num_ended + 1
            time.sleep(_POLL_S)

    def _end(self, name: str, began: float, error: str | None) -> None:
        seconds = time.monotonic() - began
        status = "passed" if error is None else "failed"
        self._record.update(name, status=status, seconds=seconds, error=error)
        self._report(f"{name}: {status} in {seconds:.1f} s")
        if error is not None:
            self._report(error.rstrip())

    def _last_lines(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def _environments(ranks: int, port: int, *, quick: bool) -> list[dict[str, str]]:
    """Return each rank's environment; all use the first device. Tiny sizes need one core."""
    paths = [str(_TOOLS.parent), str(_TOOLS), os.environ.get("PYTHONPATH", "")]
    cores = 1 if quick else len(os.sched_getaffinity(0))
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": str(max(1, cores // ranks)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),
        "LOCAL_RANK": "0",
    }
    return [{**shared, "RANK": str(rank)} for rank in range(ranks)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
