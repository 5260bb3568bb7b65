"""One rank of one case: ``python -m alignment_bench.worker CASE TOKENS OUTPUT``."""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from tqdm import tqdm

from megadga.console import run_program
from megadga.train.ranks import process_group

from .accounting import communication_rows, memory_rows
from .case import Case, Row, Section
from .cost import Seconds, cost_rows, cost_variants, time_rounds
from .domains import domain_rows, domain_variants
from .workbench import Workbench, make_engine

_COUNTED_LENGTH = 64  # of sequences in what is counted and not timed


def measure(case: Case, tokens: Path) -> dict[Section, list[Row]]:
    """Measure each section that the case asks for. Collective."""
    engine = make_engine(case)
    bench = Workbench(case, tokens, engine)
    shorter = replace(case, sequence_length=min(_COUNTED_LENGTH, case.sequence_length))
    counted = Workbench(shorter, tokens, engine)
    counted.train()  # the optimizer's state is there from now on
    sections: dict[Section, Callable[[], list[Row]]] = {
        "cost": lambda: cost_rows(
            case, len(bench.domains), _timed(bench, cost_variants(bench), "cost")
        ),
        "domains": lambda: domain_rows(case, _timed(bench, domain_variants(bench), "domains")),
        "memory": lambda: memory_rows(counted),
        "communication": lambda: communication_rows(counted),
    }
    return {section: sections[section]() for section in case.sections}


def _timed(
    bench: Workbench, variants: Mapping[str, Callable[[], object]], section: str
) -> Seconds:
    case = bench.case
    turns = time_rounds(variants, case.rounds, bench.engine.device)
    title = f"  {section}, {case.ranks} ranks, ZeRO-{case.stage}"
    seconds: Seconds = {}
    silent = dist.get_rank() > 0 or not sys.stderr.isatty()
    for found in tqdm(turns, desc=title, total=case.rounds, disable=silent, leave=False):
        seconds = found
    return seconds


def main(case: str, tokens: str, output: str) -> None:
    """Measure on every rank; the first one writes the rows."""
    warnings.filterwarnings("ignore")
    with process_group():
        found = measure(Case.from_json(case), Path(tokens))
        if dist.get_rank() == 0:
            Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    run_program(lambda: main(*sys.argv[1:]))
