"""The demo's two runs: their configurations, and how they are trained."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megadga.demo.folder import SPECIFIC, DemoFolder
from megadga.errors import ConfigError, MegadgaError
from megadga.report.records import read_metrics

DGA = "dga"
UNIFORM = "uniform"
RUNS = (DGA, UNIFORM)
STEPS = 400
LEAST_STEPS = 20  # the learning rate warms up in a twentieth of them
GLOBAL_BATCH_SIZE = 8
SEQUENCE_LENGTH = 128
_MIXING = {
    DGA: "{type: dga}  # all else by default",
    UNIFORM: "{type: static, weights: uniform}",
}
_RUN = """\
# Written by `megadga demo`. The command that it trains this run with:
#   {command}
# It continues a run that was stopped. To try something else, copy this file, change `output` in it
# and what you like, and see what `megadga check` and `megadga describe` say about it.
seed: {seed}
output: {output}
model: {{type: llama, preset: tiny, sequence_length: {length}}}
data:
  domains: {domains}
  specific: {{{specific_name}: {{path: {specific}}}}}
mixing: {mixing}
training:
  {{steps: {steps}, global_batch_size: {batch}, micro_batch_size: {micro}, precision: fp32}}
deepspeed:
  zero_optimization: {{stage: 2}}
  gradient_clipping: 1.0
  optimizer:
    type: AdamW
    params:
      {{torch_adam: true, fused: true, lr: 2.0e-3, betas: [0.9, 0.95], eps: 1.0e-8,
       weight_decay: 0.1}}
  scheduler:
    type: WarmupCosineLR
    params: {{total_num_steps: auto, warmup_num_steps: {warmup}, cos_min_ratio: 0.1}}
evaluation: {{interval: {quarter}, sequences: 128}}
checkpoint: {{interval: {quarter}, keep_last: 1}}
"""


@dataclass(frozen=True)
class DemoRunSize:
    """Options common to both runs of a demo.

    Attributes:
        steps: Optimizer steps, at least ``LEAST_STEPS``.
        seed: Of model, batches and probes, at least 0.
        ranks: Processes that train together, a divisor of ``GLOBAL_BATCH_SIZE``.

    Raises:
        ConfigError: If a value is out of range.
    """

    steps: int
    seed: int
    ranks: int

    def __post_init__(self) -> None:
        if self.steps < LEAST_STEPS:
            raise ConfigError(f"steps: expected at least {LEAST_STEPS}, found {self.steps}")
        if self.seed < 0:
            raise ConfigError(f"seed: expected at least 0, found {self.seed}")
        if self.ranks < 1 or GLOBAL_BATCH_SIZE % self.ranks:
            raise ConfigError(
                f"ranks: expected a divisor of {GLOBAL_BATCH_SIZE}, the sequences of a batch, "
                f"found {self.ranks}"
            )


def write_config(folder: DemoFolder, run: str, size: DemoRunSize) -> None:
    """Write a run's YAML file.

    Raises:
        ConfigError: If a different file exists already.
    """
    path = folder.config(run)
    text = _config_text(folder, run, size)
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{path}: expected what this demo writes, found a file made with other options or "
            "edited: pass --fresh to start again, or another --output"
        )


def is_finished(folder: DemoFolder, run: str, size: DemoRunSize) -> bool:
    """Return whether a run has trained and evaluated its last step."""
    metrics = folder.metrics(run)
    if not metrics.exists():
        return False
    return any(record["step"] == size.steps for record in read_metrics(metrics).of("evaluation"))


def train(folder: DemoFolder, run: str, size: DemoRunSize, report: Callable[[str], None]) -> None:
    """Train a run, or continue it, with DeepSpeed's launcher.

    The processes inherit the output streams.

    Raises:
        MegadgaError: If they fail; they print the reason.
    """
    arguments = _arguments(folder.config(run), size.ranks)
    report(f"$ {shlex.join(('deepspeed', *arguments))}")
    launcher = (sys.executable, "-m", "deepspeed.launcher.runner", "--quiet")
    status = subprocess.run(  # noqa: S603  (our own arguments, and no shell)
        (*launcher, "--master_port", str(_free_port()), *arguments),
        env=_environment(),
        check=False,
    ).returncode
    if status:
        raise MegadgaError(f"{folder.run(run)}: expected training to end with 0, found {status}")


def _arguments(config: Path, ranks: int) -> tuple[str, ...]:
    return ("--num_accelerators", str(ranks), "--module", "megadga.cli", "train", str(config))


def _config_text(folder: DemoFolder, run: str, size: DemoRunSize) -> str:
    return _RUN.format(
        command=shlex.join(("deepspeed", *_arguments(folder.config(run), size.ranks))),
        seed=size.seed,
        output=_quoted(folder.run(run).relative_to(folder.root)),
        domains=_quoted(folder.domains.relative_to(folder.root)),
        specific_name=SPECIFIC,
        specific=_quoted((folder.specific / SPECIFIC).relative_to(folder.root)),
        mixing=_MIXING[run],
        length=SEQUENCE_LENGTH,
        steps=size.steps,
        batch=GLOBAL_BATCH_SIZE,
        micro=GLOBAL_BATCH_SIZE // size.ranks,
        warmup=size.steps // LEAST_STEPS,
        quarter=-(-size.steps // 4),
    )


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)  # YAML reads JSON's strings


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """Return the environment with the programs and compiled operators of this interpreter.

    Its programs come first in ``PATH``, for ninja; operators compiled by `make setup` are used
    unless ``TORCH_EXTENSIONS_DIR`` is set.
    """
    programs = str(Path(sys.executable).parent)
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    compiled = Path(sys.prefix, "torch-extensions")
    return {
        **({"TORCH_EXTENSIONS_DIR": str(compiled)} if compiled.is_dir() else {}),
        **os.environ,
        "PATH": path,
    }
