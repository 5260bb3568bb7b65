"""Train the runs of configs/evidence on a corpus of real text, and compare their losses."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.errors import MegadgaError
from trials.evidence_data import ROOT, EvidenceFolder, prepare
from trials.evidence_results import (
    HELD_BACK,
    TARGETS,
    TOKENS,
    Result,
    cost_table,
    gain_table,
    general_table,
    read_record,
    sensitivity_table,
    write_record,
)
from trials.evidence_runs import (
    EXPERIMENTS,
    RULES,
    EvidenceRun,
    add_run_options,
    finished_results,
    larger_runs,
    planned_runs,
    planned_targets,
    quick_runs,
    recorded_runs,
    result_table,
    sensitivity_runs,
    train_all,
)

EPILOG = """\
examples:
  python tools/run_evidence.py --corpus text --quick
  python tools/run_evidence.py --corpus text --recorded
  python tools/run_evidence.py --corpus text --experiment targets --tokens 20k --seeds 0 1 2

targets      ten targets, with 20,000, 60,000, 200,000 and all tokens of each domain: fixed
             weights, other rules, the paper's DGA, and DGA as it is by default; 400 steps
few_tokens   20,000 tokens of each domain, aligned to pubmedqa: eight rules, 1,000 steps
sensitivity  targets with DGA as it is by default but for one key, a third of it or three times it
larger       targets with a model of 8 M parameters

The corpus is a folder of NAME.jsonl.gz, one per domain, with a folder `specific` of target sets. A
run takes 3 to 12 minutes of a core. Stopped, the same command goes on with the runs that are
missing; what is finished of `targets` and `sensitivity` is written to build/evidence/targets.json
(with --quick: quick.json), from which `make evidence-report` writes docs/evidence.md. `larger` has
a record beside it.
"""

_RECORDS = Path("docs/evidence")
_TARGETS, _LARGER = "targets.json", "larger.json"


def main() -> None:
    """Parse the command line, prepare, train, and print tables."""
    parser = _parser()
    args = parser.parse_args()
    others = [name for name in args.experiment if name in EXPERIMENTS]
    try:
        records = _planned(args)
        of_targets = [run for runs in records.values() for run in runs]
        planned = [*of_targets, *planned_runs(others, args.seeds)]
        prepare(
            EvidenceFolder(args.corpus),
            tokens=list(dict.fromkeys(run.tokens for run in of_targets)),
            few_tokens="few_tokens" in others,
            histograms=any(run.config == "importance" for run in of_targets),
        )
        train_all(planned, jobs=args.jobs, report=lambda line: print(line, flush=True))
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    tables: list[str] = []
    for name, runs in records.items():
        results = finished_results(runs)
        write_record(ROOT / name, results)
        tables += [f"{ROOT / name}\n", *_tables(results)]
    tables += [result_table(name, planned_runs([name], args.seeds)) for name in others]
    (ROOT / "results.md").write_text("\n".join(tables))
    print("\n".join(tables))


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__, EPILOG)
    names = ("targets", *EXPERIMENTS, "sensitivity", "larger")
    every = (*TARGETS, *HELD_BACK)
    add_run_options(parser)
    add = parser.add_argument
    add("--tokens", nargs="+", choices=TOKENS, default=list(TOKENS), help="of targets (all four)")
    add("--rules", nargs="+", choices=list(RULES), default=list(RULES), help="of targets (all)")
    add(
        "--targets",
        nargs="+",
        choices=every,
        default=list(every),
        metavar="NAME",
        help="(all ten)",
    )
    add = parser.add_mutually_exclusive_group().add_argument
    add("--experiment", nargs="+", choices=names, default=["targets"], help="(targets)")
    add(
        "--quick",
        action="store_true",
        help="seven short runs of targets: one table, in 15 minutes on two cores",
    )
    add(
        "--recorded",
        action="store_true",
        help="the runs of targets, sensitivity and larger that docs/evidence.md has",
    )
    return parser


def _planned(args: argparse.Namespace) -> Mapping[str, Sequence[EvidenceRun]]:
    """Return the runs of `targets`, `sensitivity` and `larger`, by the record that they go to."""
    if args.quick:
        return {"quick.json": quick_runs()}
    if args.recorded:
        of_targets, of_larger = (
            recorded_runs(read_record(_RECORDS / name)) for name in (_TARGETS, _LARGER)
        )
        return {_TARGETS: of_targets, _LARGER: larger_runs(of_larger)}
    targets = planned_targets(args.seeds, args.tokens, args.rules, args.targets)
    records: dict[str, list[EvidenceRun]] = {}
    if "targets" in args.experiment:
        records[_TARGETS] = targets
    if "sensitivity" in args.experiment:
        changed = sensitivity_runs(args.seeds, args.tokens, args.targets)
        records[_TARGETS] = [*records.get(_TARGETS, []), *changed]
    if "larger" in args.experiment:
        records[_LARGER] = larger_runs(targets)
    return records


def _tables(results: Sequence[Result]) -> list[str]:
    """Return the gains at each number of tokens, and what they cost."""
    tokens = [each for each in TOKENS if any(result.tokens == each for result in results)]
    groups = (TARGETS, HELD_BACK)
    gains = [
        f"{each} tokens\n\n{gain_table(results, each, group)}"
        for each in tokens
        for group in groups
        if any(result.target in group for result in results)
    ]
    return [*gains, general_table(results), cost_table(results), sensitivity_table(results)]


if __name__ == "__main__":
    run_program(main)
