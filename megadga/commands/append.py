"""`megadga data append`: how a domain grows."""

import argparse
from pathlib import Path

from tqdm import tqdm

from megadga.commands.command import Command
from megadga.console import shows_bars
from megadga.data.append import append_shards, count_bytes
from megadga.data.inspection import render_table, summarize

_EPILOG = """\
example:
  megadga data build --input 'crawl-2025/web.jsonl.gz' --tokenizer tok/web.model --output new
  megadga data append shards/web new/web
  megadga check run.yaml --resume

The shards of SOURCE become the last ones of DOMAIN, in both splits. Shards that DOMAIN has are
not touched, so that a run that trains on them goes on. When the run is resumed, or revised, the
domain has grown: windows that were drawn count as drawn, and the epoch goes on over the others and
the new ones. Files are hard links where SOURCE is on the same file system; SOURCE may be deleted.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("domain", type=Path, metavar="DOMAIN", help="the domain's folder")
    add("source", type=Path, metavar="SOURCE", help="folder of the new shards")
    add("--drop-scores", action="store_true", help="keep no scores, of the domain or of SOURCE")


def _append(options: argparse.Namespace) -> int:
    total = count_bytes(options.source)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="appending", disable=not shows_bars()
    ) as bar:
        manifest = append_shards(
            options.domain,
            options.source,
            drop_scores=options.drop_scores,
            progress=bar.update,
        )
    print(render_table(summarize(manifest)))
    return 0


APPEND = Command(
    "Append the shards of one folder to a domain.",
    _add_options,
    _append,
    epilog=_EPILOG,
    continues=True,
)
