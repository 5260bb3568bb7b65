"""The demo: collects text on this machine, trains with DGA and uniform weights, and compares."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp
from pathlib import Path

from tabulate import tabulate

from megadga.data.folder import open_domains
from megadga.demo.harvest import harvest
from megadga.errors import ConfigError, MegadgaError
from megadga.prepare.pipeline.build import Build, build_shards
from megadga.prepare.pipeline.corpus import Recipe, corpus_by_input
from megadga.prepare.pipeline.merging import BuildOutput
from megadga.prepare.pipeline.stages import Execution
from megadga.prepare.progress import ProgressBars
from megadga.prepare.reading.inputs import expand_inputs, plan_domains
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.training import sample_texts, train_tokenizer
from megadga.report.domains import read_domain_info
from megadga.report.figures import build_report
from megadga.report.history import averaged_weights
from megadga.report.page import render_page
from megadga.report.plots import write_figures
from megadga.report.records import counts_by_name, number_at, numbers_by_name, read_metrics
from megadga.report.runs import read_run
from megadga.run_folder import METRICS_FILE

SPECIFIC = "language_reference"
"""Name of the specific set."""


@dataclass(frozen=True)
class DemoFolder:
    """The paths of a demo; each exists only when the stage that creates it is complete.

    Attributes:
        root: The folder that holds everything.
    """

    root: Path

    @property
    def documents(self) -> Path:
        """Harvested text: ``domains/NAME.jsonl`` and both halves of the specific set."""
        return self.root / "documents"

    @property
    def tokenizer(self) -> Path:
        """The sentencepiece model."""
        return self.root / "tokenizer.model"

    @property
    def domains(self) -> Path:
        """Shards of the training domains, one folder per domain, written atomically."""
        return self.root / "shards" / "domains"

    @property
    def specific(self) -> Path:
        """Folder of the specific set's folder of shards."""
        return self.root / "shards" / "specific"

    @property
    def images(self) -> tuple[Path, ...]:
        """The weights and the alignments over time."""
        return self.root / "weights.png", self.root / "alignments.png"

    @property
    def page(self) -> Path:
        """Both runs side by side."""
        return self.root / "report.html"

    def config(self, run: str) -> Path:
        """Return the YAML file of a run."""
        return self.root / f"{run}.yaml"

    def run(self, run: str) -> Path:
        """Return the output folder of a run."""
        return self.root / run

    def metrics(self, run: str) -> Path:
        """Return the metrics file of a run."""
        return self.run(run) / METRICS_FILE

    def remove(self, runs: tuple[str, ...]) -> None:
        """Remove the demo's files, and no others in the folder."""
        made = [self.documents, self.root / "shards", self.tokenizer, *self.images, self.page]
        made += [self.config(run) for run in runs] + [self.run(run) for run in runs]
        for path in made:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


VOCABULARY_SIZE = 4096


TOKENIZER_CHARACTERS = 6_000_000
"""Text that the tokenizer is trained on, an equal part of each domain."""


VALID_FRACTION = 0.05


def collect_documents(folder: DemoFolder, report: Callable[[str], None]) -> None:
    """Write the text found on this machine as JSON lines, one file per domain.

    Raises:
        ConfigError: If the machine has too little.
    """
    if folder.documents.exists():
        report(f"{folder.documents}: already there")
        return
    corpus = harvest(report)
    partial = folder.documents.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, documents in corpus.domains.items():
        _write_lines(partial / "domains" / f"{name}.jsonl", documents)
    _write_lines(partial / "specific" / f"{SPECIFIC}.train.jsonl", corpus.specific_train)
    _write_lines(partial / "specific" / f"{SPECIFIC}.valid.jsonl", corpus.specific_valid)
    partial.rename(folder.documents)


def train_demo_tokenizer(folder: DemoFolder, report: Callable[[str], None]) -> Tokenizer:
    """Train a tokenizer on the training domains only, and load it."""
    if folder.tokenizer.exists():
        report(f"{folder.tokenizer}: already there")
        return load_tokenizer(folder.tokenizer)
    inputs = expand_inputs([str(folder.documents / "domains" / "*.jsonl")])
    tokenizer = train_tokenizer(
        sample_texts(inputs, max_characters=TOKENIZER_CHARACTERS),
        vocab_size=VOCABULARY_SIZE,
        prefix=folder.tokenizer.with_suffix(""),
    )
    report(f"{folder.tokenizer}: {tokenizer.identity.vocab_size:,} pieces")
    return tokenizer


def write_shards(folder: DemoFolder, tokenizer: Tokenizer, report: Callable[[str], None]) -> None:
    """Write the shards of every domain and of the specific set."""
    for kind, output in (("domains", folder.domains), ("specific", folder.specific)):
        names = write_domains([str(folder.documents / kind / "*.jsonl")], tokenizer, output)
        report(f"{output}: {', '.join(names)}")


def write_domains(patterns: Sequence[str], tokenizer: Tokenizer, output: Path) -> tuple[str, ...]:
    """Write shards of files, one domain per file or pair of splits.

    Args:
        patterns: Paths or globs.
        tokenizer: Encodes them.
        output: Output folder, with one folder per domain.

    Returns:
        The domains' names.

    Raises:
        ConfigError: If a pattern matches nothing, or files do not make domains.
    """
    recipe = Recipe(valid_fraction=VALID_FRACTION)
    inputs = plan_domains(expand_inputs(patterns))
    corpus = corpus_by_input(inputs, valid_fraction=recipe.valid_fraction)
    with ProgressBars() as bars:
        build_shards(Build(corpus, tokenizer, BuildOutput(output), recipe), Execution(stages=bars))
    return tuple(one.name for one in inputs)


def _write_lines(path: Path, documents: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents)


DGA = "dga"


UNIFORM = "uniform"


RUNS = (DGA, UNIFORM)


STEPS = 400


GLOBAL_BATCH_SIZE = 8


SEQUENCE_LENGTH = 128


UPDATES = 50
"""Updates of the weights in a run of any length."""


_MIXING = {
    DGA: """\
mixing:
  type: dga
  preset: paper
  interval: {interval}  # optimizer steps between updates of the weights
  step_size: 2.0
  ema: 0.1  # batches follow an average over about 10 updates
  score: cosine  # two sequences per domain are few: one with a huge gradient must not decide alone
  initial: uniform
  probe: {{type: sharded, sequences_per_domain: 2, specific_sequences: 16}}""",
    UNIFORM: "mixing: {{type: static, weights: uniform}}",
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
{mixing}
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
        steps: Optimizer steps, at least ``UPDATES``.
        seed: Of model, batches and probes, at least 0.
        ranks: Processes that train together, a divisor of ``GLOBAL_BATCH_SIZE``.

    Raises:
        ConfigError: If a value is out of range.
    """

    steps: int
    seed: int
    ranks: int

    def __post_init__(self) -> None:
        if self.steps < UPDATES:
            raise ConfigError(f"steps: expected at least {UPDATES}, found {self.steps}")
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
        mixing=_MIXING[run].format(interval=size.steps // UPDATES),
        length=SEQUENCE_LENGTH,
        steps=size.steps,
        batch=GLOBAL_BATCH_SIZE,
        micro=GLOBAL_BATCH_SIZE // size.ranks,
        warmup=size.steps // 20,
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


@dataclass(frozen=True)
class RunSummary:
    """Results of one run.

    Attributes:
        sequences: Training sequences drawn from each domain.
        specific_loss: Last validation loss of the specific set, nats per token.
        general_loss: Mean of the domains' last validation losses, nats per token.
        last_weights: Averaged weights at the end; None if they never moved.
    """

    sequences: Mapping[str, int]
    specific_loss: float
    general_loss: float
    last_weights: Mapping[str, float] | None


def summarise_run(metrics: Path, specific: str) -> RunSummary:
    """Return the results of a finished run from its metrics.

    Args:
        metrics: The run's ``metrics.jsonl``.
        specific: Name of the specific set.

    Raises:
        ConfigError: If there is no evaluation, or none of the specific set.
    """
    sequences: Counter[str] = Counter()
    run = read_metrics(metrics)
    for record in run.of("train"):
        sequences.update(counts_by_name(metrics, record, "sequences_by_domain"))
    evaluations = run.of("evaluation")
    losses = numbers_by_name(metrics, evaluations[-1], "specific") if evaluations else {}
    if specific not in losses:
        raise ConfigError(f"{metrics}: expected an evaluation of {specific}, found none")
    updates = run.of("update")
    return RunSummary(
        sequences=sequences,
        specific_loss=losses[specific],
        general_loss=number_at(metrics, evaluations[-1], "general"),
        last_weights=averaged_weights(metrics, updates[-1]) if updates else None,
    )


@dataclass(frozen=True)
class DomainSize:
    """Size of a domain's training split.

    Attributes:
        tokens: Number of tokens.
        sequences: Number of windows of the run's sequence length.
    """

    tokens: int
    sequences: int


def render_comparison(
    domains: Mapping[str, DomainSize], dga: RunSummary, uniform: RunSummary
) -> list[str]:
    """Return the lines of the demo's result: one row per domain, then the losses.

    Args:
        domains: What was trained on, by name.
        dga: The run whose weights started uniform and moved.
        uniform: The run whose weights stayed uniform.
    """
    last = dga.last_weights or {}
    rows = [("domain", "tokens", "first weight", "last weight", "epochs dga", "epochs uniform")]
    for name in sorted(domains, key=lambda name: -last.get(name, 0.0)):
        size = domains[name]
        rows.append(
            (
                name,
                f"{size.tokens:,}",
                f"{1.0 / len(domains):.3f}",
                f"{last.get(name, 0.0):.3f}",
                f"{dga.sequences.get(name, 0) / size.sequences:.2f}",
                f"{uniform.sequences.get(name, 0) / size.sequences:.2f}",
            )
        )
    return [*table(rows), "", *_losses(dga, uniform)]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: the first column to the left, the others to the right.

    Args:
        rows: The header first; all of one length.
    """
    align = ("left", *("right" for _ in rows[0][1:]))
    plain = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    title, *lines = plain.split("\n")
    return [title, "-" * len(title), *lines]


def _losses(dga: RunSummary, uniform: RunSummary) -> list[str]:
    rows = [
        ("validation loss, nats per token", "dga", "uniform", "difference"),
        _loss_row("specific set", dga.specific_loss, uniform.specific_loss),
        _loss_row("mean of the domains", dga.general_loss, uniform.general_loss),
    ]
    ratio = exp(dga.specific_loss - uniform.specific_loss)
    return [*table(rows), "", f"Perplexity of the specific set: {ratio:.3f} of uniform's."]


def _loss_row(name: str, dga: float, uniform: float) -> tuple[str, str, str, str]:
    return name, f"{dga:.4f}", f"{uniform:.4f}", f"{dga - uniform:+.4f}"


Report = Callable[[str], None]


def _tell(line: str) -> None:
    print(line, flush=True)  # in order with the output of the training processes


def run_demo(
    output: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    ranks: int = 2,
    fresh: bool = False,
    report: Report = _tell,
) -> None:
    """Collect text, prepare it, train with DGA and with uniform weights, and compare.

    Args:
        output: Folder of everything that the demo makes.
        steps: Optimizer steps of each run, at least ``UPDATES``.
        seed: Of both runs, at least 0; the text and the shards are the same for any.
        ranks: Processes that train together, a divisor of ``GLOBAL_BATCH_SIZE``.
        fresh: Whether to remove first what an earlier demo made in the folder.
        report: Called with each line of progress.

    Raises:
        MegadgaError: If an option is out of range, the machine has too little text, the folder
            holds a demo with other options, or training fails.
    """
    size = DemoRunSize(steps, seed, ranks)
    folder = DemoFolder(output)
    if fresh:
        folder.remove(RUNS)
    folder.root.mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        write_config(folder, run, size)
    with _stage("1/5 text of this machine", report):
        collect_documents(folder, report)
    with _stage("2/5 tokenizer", report):
        tokenizer = train_demo_tokenizer(folder, report)
    with _stage("3/5 shards", report):
        write_shards(folder, tokenizer, report)
    for nth, run in enumerate(RUNS, start=4):
        with _stage(f"{nth}/5 training: {run}", report):
            if is_finished(folder, run, size):
                report(f"{folder.run(run)}: already trained")
            else:
                train(folder, run, size, report)
    _compare(folder, report)


@contextmanager
def _stage(title: str, report: Report) -> Generator[None]:
    report(f"\n== {title}")
    started = time.perf_counter()
    yield
    report(f"   {time.perf_counter() - started:.0f} s")


def _compare(folder: DemoFolder, report: Report) -> None:
    domains = {
        domain.name: DomainSize(domain.num_tokens, domain.num_sequences)
        for domain in open_domains(folder.domains, split="train", sequence_length=SEQUENCE_LENGTH)
    }
    dga, uniform = (summarise_run(folder.metrics(run), SPECIFIC) for run in (DGA, UNIFORM))
    _draw(folder)
    report("")
    for line in render_comparison(domains, dga, uniform):
        report(line)
    report(f"\nWeights and alignments over time: {', '.join(map(str, folder.images))}")
    report(f"Both runs side by side, in a browser: {folder.page}")
    report(
        f"Runs to look at, change and run again: {folder.config(DGA)}, {folder.config(UNIFORM)}"
    )


def _draw(folder: DemoFolder) -> None:
    """Write the images of the run with DGA, and the page of both."""
    runs = {run: read_run(folder.run(run)) for run in RUNS}
    infos = {run: read_domain_info(folder.run(run)) for run in RUNS}
    keys = [image.stem for image in folder.images]
    write_figures(
        build_report([runs[DGA]], [infos[DGA]]), folder.root, keys=keys, formats=("png",)
    )
    both = build_report([*runs.values()], [*infos.values()])
    folder.page.write_text(render_page(both, watched=False), encoding="utf-8")
