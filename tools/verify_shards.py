"""Runs `megadga data verify`."""

import sys

from megadga.commands.shards import VERIFY
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: VERIFY(sys.argv[1:]))
