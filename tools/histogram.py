"""Runs `megadga data histogram`."""

import sys

from megadga.commands.text import HISTOGRAM
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: HISTOGRAM(sys.argv[1:]))
