"""The demo: collects text on this machine, trains with DGA and uniform weights, and compares."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from megadga.data.folder import open_domains
from megadga.demo.folder import (
    SPECIFIC,
    DemoFolder,
    collect_documents,
    train_demo_tokenizer,
    write_shards,
)
from megadga.demo.runs import (
    DGA,
    RUNS,
    SEQUENCE_LENGTH,
    STEPS,
    UNIFORM,
    DemoRunSize,
    is_finished,
    train,
    write_config,
)
from megadga.demo.summary import DomainSize, render_comparison, summarise_run
from megadga.report.domains import read_domain_info
from megadga.report.figures import build_report
from megadga.report.page import render_page
from megadga.report.plots import write_figures
from megadga.report.runs import read_run

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
        steps: Optimizer steps of each run, at least ``LEAST_STEPS``.
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
