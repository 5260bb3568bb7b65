"""Runs `megadga data adopt`."""

import sys

from megadga.commands.shards import ADOPT
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: ADOPT(sys.argv[1:]))
