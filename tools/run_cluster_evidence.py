"""Train the runs of configs/evidence/clusters on real text, and compare their losses."""

from megadga.console import run_program, tool_parser
from megadga.errors import MegadgaError
from trials.evidence_clusters import (
    EXAMPLES,
    RULES,
    clusters_table,
    finished_clusters,
    planned_clusters,
    rises_table,
    write_clusters,
)
from trials.evidence_data import LEVELS, ROOT, EvidenceFolder, prepare_clusters
from trials.evidence_runs import add_run_options, train_all

EPILOG = """\
examples:
  python tools/run_cluster_evidence.py --corpus text --clusters 256 --examples 8 --seeds 0
  python tools/run_cluster_evidence.py --corpus text --rules uniform importance dga_basis

The corpus, a folder of NAME.jsonl.gz with a folder `specific` of target sets, is divided into
clusters; each run is aligned to a few sequences of one target set. The basis has the histograms of
the other sets. Rules that do not look at the examples (uniform, basis) are trained once for all
numbers of them. A run of 400 steps takes 2 to 6 minutes of a core.

Stopped, the same command goes on with the runs that are missing. What is finished is written to
build/evidence/clusters.json, from which `make evidence-report` writes docs/evidence.md.
"""


def main() -> None:
    """Parse the command line, prepare, train, and print tables."""
    parser = tool_parser(__doc__, EPILOG)
    add_run_options(parser)
    add = parser.add_argument
    add("--clusters", type=int, nargs="+", choices=LEVELS, default=list(LEVELS), help="(all)")
    add("--examples", type=int, nargs="+", choices=EXAMPLES, default=list(EXAMPLES), help="(all)")
    add("--rules", nargs="+", choices=list(RULES), default=list(RULES), help="(all)")
    args = parser.parse_args()
    planned = planned_clusters(args.seeds, args.clusters, args.examples, args.rules)
    cells = [(number, examples) for number in args.clusters for examples in args.examples]
    try:
        prepare_clusters(EvidenceFolder(args.corpus), cells)
        runs = [each.run for each in planned]
        train_all(runs, jobs=args.jobs, report=lambda line: print(line, flush=True))
        results = finished_clusters(planned)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    write_clusters(ROOT / "clusters.json", results)
    print(f"{clusters_table(results)}\n\n{rises_table(results)}")


if __name__ == "__main__":
    run_program(main)
