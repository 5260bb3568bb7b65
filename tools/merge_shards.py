"""Runs `megadga data merge`."""

import sys

from megadga.commands.shards import MERGE
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: MERGE(sys.argv[1:]))
