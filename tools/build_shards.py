"""Turn text into shards of domains, on one machine or, under mpirun, on many."""

from megadga.console import run_program, tool_parser
from megadga.data.inspection import render_table, summarize
from megadga.errors import MegadgaError
from megadga.prepare.pipeline.build import build_shards
from megadga.prepare.pipeline.command import (
    add_options,
    describe_exceptions,
    read_build,
    read_execution,
)
from megadga.prepare.progress import ProgressBars
from megadga.prepare.reading.inputs import describe_skipped, expand_inputs
from megadga.prepare.workers import open_workers

EPILOG = """\
examples:
  python tools/build_shards.py --input 'text/*.jsonl.gz' --tokenizer web.model --output shards
  mpirun -n 65 python tools/build_shards.py --input 'crawl/**/*.parquet' \\
      --domain-key meta.source --tokenizer web.model --output shards
  python tools/build_shards.py --input 'text/*.jsonl.zst' --clusters clusters --level 4096 \\
      --tokenizer web.model --output shards/clustered

Inputs are files (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt) and folders of files. Each is a
domain, text/novels.jsonl.gz becomes shards/novels/, unless a key of the records or a clustering
says. A pair qa.train.jsonl, qa.valid.jsonl becomes the two splits of shards/qa/, as do files of a
folder that say train and validation; what says test is left out. Of any other input a fraction
of the documents, chosen by their text, is held out for validation.

Killed, it goes on where it was when the same command is run again. The bytes that come out are the
same for any number of workers, ranks and interruptions. Under mpirun one rank hands out the work.
"""


def main() -> None:
    """Parse the command line, build, and print a table of what was built."""
    parser = tool_parser(__doc__, EPILOG)
    add_options(parser)
    args = parser.parse_args()
    try:
        with open_workers(args.workers) as workers:
            if workers is None:
                return  # a rank that has worked for the first one
            with ProgressBars() as bars:
                execution = read_execution(args, workers, stages=bars)
                built = build_shards(read_build(args), execution)
            left_out = describe_skipped(expand_inputs(args.input), pairs=True)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the same command goes on from here\n")
    table = render_table([line for one in built.manifests for line in summarize(one)])
    print(table, *left_out, *describe_exceptions(built), sep="\n")


if __name__ == "__main__":
    run_program(main)
