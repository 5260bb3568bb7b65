"""Continue a small model's pretraining for new targets, fine-tune it, and compare the losses."""

from megadga.console import run_program, tool_parser
from megadga.errors import MegadgaError
from trials.evidence_continued import (
    RULES,
    continued_table,
    export_models,
    finished_continued,
    planned_stages,
    write_continued,
)
from trials.evidence_data import ROOT, EvidenceFolder, prepare
from trials.evidence_results import TARGETS
from trials.evidence_runs import add_run_options, train_all

EPILOG = """\
examples:
  python tools/run_continued_evidence.py --corpus text --targets pubmedqa --seeds 0
  python tools/run_continued_evidence.py --corpus text

Three stages: a model is trained at uniform weights and exported (400 steps); each rule of
configs/evidence/continued trains on from it for each target (200 steps, a third of the rate); and
what came of that, as the model itself, is fine-tuned on the target's training split (40 steps).
A seed takes 7 minutes of a core, and 5 for each target with all rules.

The corpus is a folder of NAME.jsonl.gz, one per domain, with a folder `specific` of target sets.
Stopped, the same command goes on with the runs that are missing. What is finished is written to
build/evidence/continued.json, from which `make evidence-report` writes docs/evidence.md.
"""


def main() -> None:
    """Parse the command line, prepare, train stage by stage, and print the table."""
    parser = tool_parser(__doc__, EPILOG)
    add_run_options(parser)
    add = parser.add_argument
    add("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="(all six)")
    add("--rules", nargs="+", choices=RULES, default=list(RULES), help="(all)")
    args = parser.parse_args()
    stages = planned_stages(args.seeds, args.rules, args.targets)
    try:
        of_importance = "importance" in args.rules
        folder = EvidenceFolder(args.corpus)
        prepare(folder, tokens=["all"], histograms=of_importance)
        for nth, stage in enumerate(stages):
            runs = [each.run(args.targets) for each in stage]
            train_all(runs, jobs=args.jobs, report=lambda line: print(line, flush=True))
            if nth == 0:
                export_models(args.seeds)
        planned = [each for stage in stages for each in stage]
        results = finished_continued(planned, args.targets)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    write_continued(ROOT / "continued.json", results)
    print(continued_table(results))


if __name__ == "__main__":
    run_program(main)
