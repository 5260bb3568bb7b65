"""Train the runs of configs/evidence on a corpus of real text, and compare their losses."""

from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.errors import MegadgaError
from trials.evidence_data import EvidenceFolder, prepare
from trials.evidence_runs import (
    EXPERIMENTS,
    planned_runs,
    result_table,
    target_table,
    train_all,
)

EPILOG = """\
example:
  python tools/run_evidence.py --corpus text --experiment few_tokens --seeds 0 1

few_tokens   20,000 tokens of each domain, aligned to pubmedqa: six rules
clusters     the corpus in 256 clusters, aligned to 8 sequences: three rules
targets      six targets, with 20,000 and with all tokens of each domain: uniform weights, and DGA
             as it is by default
sensitivity  few_tokens with DGA, other step sizes, intervals and averages

The corpus is a folder of NAME.jsonl.gz, one per domain, with a folder `specific` of target sets. A
run takes 6 to 12 minutes of a core. Stopped, the same command goes on with the runs that are
missing.
"""
ROOT = Path("build/evidence")


def main() -> None:
    """Parse the command line, prepare, train, and print tables."""
    parser = tool_parser(__doc__, EPILOG)
    names = (*EXPERIMENTS, "targets", "sensitivity")
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="FOLDER", help="of documents")
    add(
        "--experiment", nargs="+", choices=names, default=list(EXPERIMENTS), help="(the first two)"
    )
    add("--seeds", type=int, nargs="+", default=[0, 1], metavar="N", help="(0 1)")
    add("--jobs", type=int, default=2, metavar="N", help="runs at a time (%(default)s)")
    args = parser.parse_args()
    try:
        prepare(EvidenceFolder(args.corpus, ROOT), args.experiment)
        planned = planned_runs(args.experiment, args.seeds)
        train_all(planned, jobs=args.jobs, report=lambda line: print(line, flush=True))
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    tables = [
        target_table(args.seeds)
        if name == "targets"
        else result_table(name, planned_runs([name], args.seeds))
        for name in args.experiment
    ]
    (ROOT / "results.md").write_text("\n".join(tables))
    print("\n".join(tables))


if __name__ == "__main__":
    run_program(main)
