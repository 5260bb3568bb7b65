"""Read every byte of domains' shards and say exactly what is wrong with them."""

import os
import sys
from pathlib import Path

from tqdm import tqdm

from megadga.console import run_program, shows_bars, tool_parser
from megadga.data.verify import find_folders, plan_checks, verify_shard
from megadga.errors import MegadgaError
from megadga.prepare.workers import open_processes

EPILOG = """\
example:
  python tools/verify_shards.py shards/generic shards/specific

Compared are headers, sizes, the places of sentences and documents, ids with the vocabulary, and
counts and checksums with the manifest. Ends with 1 if anything is wrong, a line per problem.
"""


def main() -> None:
    """Parse the command line, check, and print every problem and a summary."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="of domains, or of one domain")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (all cores)")
    args = parser.parse_args()
    plans = [plan_checks(folder) for path in args.folders for folder in find_folders(path)]
    problems = [line for plan in plans for line in plan.problems]
    for line in problems:
        print(line)
    checks = [check for plan in plans for check in plan.shards]
    total = sum(check.num_bytes for check in checks)
    try:
        with (
            open_processes(args.workers) as pool,
            tqdm(
                total=total, unit="B", unit_scale=True, desc="verifying", disable=not shows_bars()
            ) as bar,
        ):
            for report in pool.map_in_order(verify_shard, checks):
                for line in (*report.problems, *report.warnings):
                    bar.write(line)
                problems += report.problems
                bar.update(report.num_bytes)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    documents = sum(check.entry.documents for check in checks)
    tokens = sum(check.entry.tokens for check in checks)
    print(
        f"folders: {len(plans):,}, shards: {len(checks):,}, documents: {documents:,}, "
        f"tokens: {tokens:,}, problems: {len(problems):,}"
    )
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    run_program(main)
