"""Runs `megadga data tokenizer`."""

import sys

from megadga.commands.text import TOKENIZER
from megadga.console import run_program

if __name__ == "__main__":
    run_program(lambda: TOKENIZER(sys.argv[1:]))
