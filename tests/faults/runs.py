"""A small run in a folder of its own, started as users start it, and what it leaves there."""

import json
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from tests.support.engines import RELEASED
from tests.support.ranks import rank_environment
from tests.support.runs import write_run

RANKS = 2
STEPS = 80
RUN = f"""\
seed: 17
output: out
model: {{type: llama, preset: nano, sequence_length: 8}}
data:
  domains: shards/domains
  entering: {{late: 0.1}}
  revisions: live.yaml
  specific: {{target: {{path: shards/specific}}}}
mixing:
  type: dga
  preset: paper
  interval: 4
  step_size: 0.02
  ema: 0.5
  probe: {{type: directional, sequences_per_domain: 8, specific_sequences: 16}}
training: {{steps: {STEPS}, global_batch_size: 8, micro_batch_size: 2}}
deepspeed: zero.json
evaluation: {{interval: 6, sequences: 24}}
checkpoint: {{interval: 5, keep_last: 2}}
"""
"""Probes and evaluations take longer than steps, so that there is time to die in them. A domain
enters with the first update, by ``live.yaml``."""
EARLY = ("d0", "d1", "d2", "d3")
VOLATILE = ("tokens_per_s", "seconds", "probe_s", "observed_overhead")
"""Keys of records that are times, in which no two runs agree. All others must be equal."""
LAUNCH = ("-m", "megadga.cli", "launch", "local", f"--accelerators-per-node={RANKS}")
_MARKERS = ("DONE", "REQUEUE")


@dataclass
class Launched:
    """A launcher at work, and its ranks, which may outlive it.

    Attributes:
        launcher: Its process, the leader of a session.
        ranks: In order of rank, as far as they have been seen.
    """

    launcher: psutil.Popen
    ranks: dict[int, psutil.Process] = field(default_factory=dict[int, psutil.Process])

    def look(self) -> None:
        """See which ranks there are."""
        if len(self.ranks) == RANKS:
            return
        with suppress(psutil.NoSuchProcess):
            for child in self.launcher.children():
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    variables = child.environ()
                    if "RANK" in variables and "train" in child.cmdline():
                        self.ranks[int(variables["RANK"])] = child

    def alive(self) -> list[psutil.Process]:
        """Return the processes that have not ended."""
        return [each for each in (self.launcher, *self.ranks.values()) if is_alive(each)]

    def wait(self, within_s: float) -> float:
        """Wait until all of it has ended; return the seconds that took."""
        began = time.monotonic()
        while left := self.alive():
            taken = time.monotonic() - began
            assert taken < within_s, f"left after {taken:.0f} s: {[p.cmdline() for p in left]}"
            time.sleep(0.02)
        self.launcher.wait()
        return time.monotonic() - began


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class FaultyRun:
    """A run that things happen to.

    Attributes:
        folder: Holds ``run.yaml``, ``log`` and, once it has run, ``out``.
        operators: Compiled ones, for the tests of faults alone: who is killed may leave locks.
    """

    folder: Path
    operators: Path

    @property
    def output(self) -> Path:
        """The run's own folder."""
        return self.folder / "out"

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.output / "checkpoints"

    @property
    def log(self) -> Path:
        """Where all output goes."""
        return self.folder / "log"

    def config(self) -> RunConfig:
        """Return its configuration."""
        return load_config(self.folder / "run.yaml")

    @contextmanager
    def launched(self, *options: str, **variables: str) -> Generator[Launched]:
        """Start it, or start it again; whatever is left of it at the end is killed."""
        environment = rank_environment(TORCH_EXTENSIONS_DIR=str(self.operators), **variables)
        with self.log.open("ab") as log:
            launcher = psutil.Popen(
                [sys.executable, *LAUNCH, *options, "run.yaml"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        job = Launched(launcher)
        try:
            yield job
        finally:
            job.look()
            for process in job.alive():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            launcher.wait()

    def finish(self, *options: str, timeout_s: float = 1800.0) -> int:
        """Start it and wait for its end; return the exit code."""
        with self.launched(*options) as job:
            ends = time.monotonic() + timeout_s
            while job.launcher.poll() is None:
                assert time.monotonic() < ends, self.end_of_log()
                job.look()
                time.sleep(0.05)
            return job.launcher.returncode

    def end_of_log(self) -> str:
        """Return the last lines that it has printed."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def records(self) -> list[dict[str, Any]]:
        """Return its complete metrics, but for times, resumptions and the writing of checkpoints.

        Who is killed between a checkpoint and its record has written the one and not the other.
        """
        path = self.output / "metrics.jsonl"
        *lines, _ = path.read_text().split("\n") if path.exists() else [""]
        found = [json.loads(line) for line in lines]
        return [
            {key: value for key, value in record.items() if key not in VOLATILE}
            for record in found
            if record.get("event") != "resume" and record["type"] != "checkpoint"
        ]

    def step(self) -> int:
        """Return the last step in its metrics, 0 without any."""
        path = self.output / "metrics.jsonl"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 65536))
                *lines, _ = file.read().split(b"\n")
        except FileNotFoundError:
            return 0
        return json.loads(lines[-1])["step"] if lines and lines[-1].startswith(b"{") else 0

    def markers(self) -> set[str]:
        """Return which markers of its end there are."""
        return {name for name in _MARKERS if (self.output / name).exists()}

    def unfinished_files(self) -> list[str]:
        """Return what a write that was cut off has left in its folder."""
        return [str(path.relative_to(self.output)) for path in self.output.rglob("*.partial")]


def write_faulty_run(
    folder: Path, shards: Path, operators: Path, *, stage: int, text: str = RUN
) -> FaultyRun:
    """Write a run on shards that ``write_sets`` has written."""
    folder.mkdir()
    (folder / "shards").symlink_to(shards)
    released = RELEASED if stage == 3 else {}
    early = ", ".join(f"{{name: {each}, path: shards/domains/{each}}}" for each in EARLY)
    (folder / "live.yaml").write_text(
        f"domains: [{early}, {{name: late, path: shards/specific}}]\n"
    )
    write_run(folder, text, zero_optimization={"stage": stage, **released}, gradient_clipping=1.0)
    return FaultyRun(folder, operators)


def shared_buffers() -> set[str]:
    """Return DeepSpeed's files in shared memory, by name: 69 MB each."""
    return {path.name for path in Path("/dev/shm").glob("deepspeed_*")}  # noqa: S108
