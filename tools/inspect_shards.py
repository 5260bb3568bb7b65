"""Runs `megadga data inspect`."""

import sys

from megadga.commands.shards import INSPECT
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: INSPECT(sys.argv[1:]))
