"""The embedded default, from text on this machine to a picture. Knows the order of its parts.

Run again, it goes on where it stopped; what is finished is not done again.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from megadga.demo.data import collect_documents, learn_tokenizer, write_shards
from megadga.demo.folder import SPECIFIC, DemoFolder
from megadga.demo.runs import (
    DGA,
    RUNS,
    SEQUENCE_LENGTH,
    STEPS,
    UNIFORM,
    RunSize,
    is_finished,
    train,
    write_config,
)
from megadga.demo.summary import DomainSize, comparison, summarise_run
from megadga.report.plots import plot_run
from megadga.shards.folder import open_domains

Report = Callable[[str], None]


def _tell(line: str) -> None:
    print(line, flush=True)  # in order with what the trained processes print


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
        report: Told what happens, a line at a time.

    Raises:
        MegadgaError: If an option is out of range, the machine has too little text, the folder
            holds a demo with other options, or training fails.
    """
    size = RunSize(steps, seed, ranks)
    folder = DemoFolder(output)
    if fresh:
        folder.remove(RUNS)
    folder.root.mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        write_config(folder, run, size)
    with _part("1/5 text of this machine", report):
        collect_documents(folder, report)
    with _part("2/5 tokenizer", report):
        tokenizer = learn_tokenizer(folder, report)
    with _part("3/5 shards", report):
        write_shards(folder, tokenizer, report)
    for number, run in enumerate(RUNS, start=4):
        with _part(f"{number}/5 training: {run}", report):
            if is_finished(folder, run, size):
                report(f"{folder.run(run)}: already trained")
            else:
                train(folder, run, size, report)
    _compare(folder, report)


@contextmanager
def _part(title: str, report: Report) -> Generator[None]:
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
    images = plot_run(folder.metrics(DGA), folder.root)
    report("")
    for line in comparison(domains, dga, uniform):
        report(line)
    report(f"\nWeights and alignments over time: {', '.join(map(str, images))}")
    report(
        f"Runs to look at, change and run again: {folder.config(DGA)}, {folder.config(UNIFORM)}"
    )
