"""The options of every tool that reads documents, but for those of a build. Reads nothing."""

import argparse


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--text-key`` and ``--max-bad`` to a parser."""
    add = parser.add_argument
    add("--text-key", default="text", metavar="KEY", help="of the JSON objects (%(default)s)")
    add(
        "--max-bad",
        default="0",
        metavar="N",
        help="bad records to leave out, or N%%, each time that input is read; those without text "
        "are none here (%(default)s)",
    )
