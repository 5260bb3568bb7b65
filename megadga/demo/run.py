"""The embedded default, from text on this machine to a picture. Knows the order of its parts.

Run again, it goes on where it stopped; what is finished is not done again.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megadga.demo.data import collect_documents, learn_tokenizer, write_shards
from megadga.demo.folder import SPECIFIC, DemoFolder
from megadga.demo.runs import DGA, RUNS, UNIFORM, RunSize, is_finished, train, write_config
from megadga.demo.summary import DomainSize, comparison, summarise_run
from megadga.report.weights import plot_weights
from megadga.shards.folder import find_domains, open_domains

Report = Callable[[str], None]
SEQUENCE_LENGTH = 128


@dataclass(frozen=True)
class DemoOptions:
    """What a user may choose.

    Attributes:
        output: Folder of everything the demo makes.
        size: Steps, seed and ranks of its runs.
        fresh: Whether to remove what an earlier demo made there.
    """

    output: Path
    size: RunSize
    fresh: bool


def run_demo(options: DemoOptions, report: Report = print) -> None:
    """Collect text, prepare it, train with DGA and with uniform weights, and compare.

    Args:
        options: Where, how long, on how many ranks.
        report: Told what happens, a line at a time.

    Raises:
        MegadgaError: If the machine has too little text, the folder holds another demo, or
            training fails.
    """
    folder = DemoFolder(options.output)
    if options.fresh:
        folder.remove(RUNS)
    folder.root.mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        write_config(folder, run, options.size)
    with _part("1/5 text of this machine", report):
        collect_documents(folder, report)
    with _part("2/5 tokenizer", report):
        tokenizer = learn_tokenizer(folder, report)
    with _part("3/5 shards", report):
        write_shards(folder, tokenizer, report)
    for number, run in enumerate(RUNS, start=4):
        with _part(f"{number}/5 training: {run}", report):
            if is_finished(folder, run, options.size):
                report(f"{folder.run(run)}: already trained")
            else:
                train(folder, run, options.size, report)
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
        for domain in open_domains(
            find_domains(folder.domains), split="train", sequence_length=SEQUENCE_LENGTH
        )
    }
    dga, uniform = (summarise_run(folder.metrics(run), SPECIFIC) for run in (DGA, UNIFORM))
    plot_weights(folder.metrics(DGA), folder.image)
    report("")
    for line in comparison(domains, dga, uniform):
        report(line)
    report(f"\nWeights over time: {folder.image}")
    report(
        f"Runs to look at, change and run again: {folder.config(DGA)}, {folder.config(UNIFORM)}"
    )
