"""Train the runs of configs/evidence on a corpus of real text, and compare their losses."""

from collections.abc import Sequence

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
    sensitivity_table,
    write_record,
)
from trials.evidence_runs import (
    EXPERIMENTS,
    LARGER,
    RULES,
    add_run_options,
    finished_results,
    larger_runs,
    planned_runs,
    planned_targets,
    quick_runs,
    result_table,
    sensitivity_runs,
    train_all,
)

EPILOG = """\
examples:
  python tools/run_evidence.py --corpus text --quick
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


def main() -> None:
    """Parse the command line, prepare, train, and print tables."""
    parser = tool_parser(__doc__, EPILOG)
    names = ("targets", *EXPERIMENTS, "sensitivity", "larger")
    every = (*TARGETS, *HELD_BACK)
    add_run_options(parser)
    add = parser.add_argument
    add("--experiment", nargs="+", choices=names, default=["targets"], help="(targets)")
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
    add(
        "--quick",
        action="store_true",
        help="seven short runs of targets instead: one table, in 15 minutes on two cores",
    )
    args = parser.parse_args()
    experiments = ["targets"] if args.quick else args.experiment
    targets = planned_targets(args.seeds, args.tokens, args.rules, args.targets)
    if args.quick:
        targets = quick_runs()
    others = [name for name in experiments if name in EXPERIMENTS]
    changed = sensitivity_runs(args.seeds, args.tokens, args.targets)
    larger = larger_runs(targets)
    planned = [
        *(targets if "targets" in experiments else ()),
        *(changed if "sensitivity" in experiments else ()),
        *(larger if "larger" in experiments else ()),
        *planned_runs(others, args.seeds),
    ]
    try:
        prepare(
            EvidenceFolder(args.corpus),
            experiments,
            tokens=("20k", "all") if args.quick else args.tokens,
            histograms=any(run.config == "importance" for run in planned),
        )
        train_all(planned, jobs=args.jobs, report=lambda line: print(line, flush=True))
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    tables = [result_table(name, planned_runs([name], args.seeds)) for name in others]
    if {"targets", "sensitivity"} & set(experiments):
        results = finished_results([*targets, *([] if args.quick else changed)])
        write_record(ROOT / ("quick.json" if args.quick else "targets.json"), results)
        tables = [*_tables(results), *tables]
    if "larger" in experiments:
        results = finished_results(larger)
        write_record(ROOT / "larger.json", results)
        tables = [*tables, f"{LARGER}\n", *_tables(results)]
    (ROOT / "results.md").write_text("\n".join(tables))
    print("\n".join(tables))


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
