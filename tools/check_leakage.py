"""Runs `megadga data leakage`."""

import sys

from megadga.commands.shards import LEAKAGE
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: LEAKAGE(sys.argv[1:]))
