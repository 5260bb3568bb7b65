"""Runs `megadga data build`."""

import sys

from megadga.commands.build import BUILD
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: BUILD(sys.argv[1:]))
