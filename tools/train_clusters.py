"""Runs `megadga data cluster`."""

import sys

from megadga.commands.text import CLUSTER
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: CLUSTER(sys.argv[1:]))
