"""Small runs to launch on hosts, and what they leave in their folder."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.environment import shell_environment, write_hostfile
from tests.support.ranks import REPOSITORY, copy_operators
from tests.support.runs import write_run

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing:
  type: dga
  preset: paper
  interval: 5
  step_size: 0.5
  ema: 0.3
  probe: {type: directional, sequences_per_domain: 2, specific_sequences: 4}
training: {steps: 20, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 10, sequences: 4}
checkpoint: {interval: 10, keep_last: 2}
"""
"""Of the demo's shape, on made-up tokens."""
OF_THE_MACHINE = ("tokens_per_s", "seconds", "probe_s", "observed_overhead")


@dataclass(frozen=True)
class Trial:
    """A run in a folder of its own.

    Attributes:
        folder: Holds ``run.yaml``, ``hostfile`` and, once it has run, ``out``.
    """

    folder: Path

    @property
    def output(self) -> Path:
        """The run's own folder."""
        return self.folder / "out"

    def environment(self, **variables: str) -> dict[str, str]:
        """Return what its launcher's shell has: compiled operators of its own, for one.

        A rank that is killed while it loads one leaves a lock, for which all later ranks wait.
        """
        return shell_environment(TORCH_EXTENSIONS_DIR=str(self.folder / "operators"), **variables)

    def launch(self, launcher: str, *options: str) -> list[str]:
        """Return the command that launches it."""
        return [sys.executable, str(REPOSITORY / "launch" / launcher), *options, "run.yaml"]

    def over_two_hosts(self, launcher: str, *options: str) -> list[str]:
        """Return the command that launches it on two ranks of each of two hosts."""
        where = ["--nodes=2", "--accelerators-per-node=2"]
        hostfile = [] if launcher == "slurm" else ["--hostfile=hostfile"]
        return self.launch(launcher, *where, *hostfile, *options)

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return those of one type, or of training, without what times say."""
        path = self.output / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        return [
            {key: value for key, value in record.items() if key not in OF_THE_MACHINE}
            for record in records
            if (record["type"] == kind if kind else record["type"] not in ("event", "checkpoint"))
        ]

    def step(self) -> int:
        """Return the last step that it has logged."""
        return max((record["step"] for record in self.metrics("train")), default=0)

    def markers(self) -> set[str]:
        """Return which markers of its end there are."""
        return {name for name in ("DONE", "REQUEUE") if (self.output / name).exists()}

    def logs(self) -> str:
        """Return the ends of SLURM's logs of it."""
        return "\n".join(path.read_text()[-6000:] for path in self.output.glob("slurm-*.log"))


def write_trial(folder: Path, shards: Path, *, steps: int = 20) -> Trial:
    """Write a run on shards that ``write_sets`` has written."""
    folder.mkdir()
    (folder / "shards").symlink_to(shards)
    write_run(folder, RUN.replace("steps: 20", f"steps: {steps}"))
    write_hostfile(folder / "hostfile", ["h1", "h2"])
    copy_operators(folder / "operators")
    return Trial(folder)
