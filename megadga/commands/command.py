"""Commands: parsing, execution and error reporting."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from megadga.console import INTERRUPTED, USER_ERROR
from megadga.errors import MegadgaError, TrainingError
from megadga.launch.ranks import rank_for_messages


@final
@dataclass(frozen=True)
class Command:
    """A program of its own, or a subcommand of another.

    Attributes:
        description: First paragraph of ``--help``.
        add_options: Adds the options to a parser.
        run: Executes the command and returns the exit code. Its argument also has ``prog``, the
            name that the command was called by.
        epilog: Last part of ``--help``, verbatim: examples and details.
        on_ranks: Whether launchers start it once per rank: messages are then prefixed with the
            rank (except rank 0) instead of the command.
        continues: Whether running the command again after Ctrl-C continues it.
    """

    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    epilog: str = ""
    on_ranks: bool = False
    continues: bool = False

    def __call__(self, arguments: Sequence[str], *, prog: str | None = None) -> int:
        """Parse the arguments, run, and return the exit code; an error goes to standard error.

        Args:
            arguments: What follows the command's name.
            prog: That name; None: the file that was started.
        """
        parser = argparse.ArgumentParser(
            prog=prog,
            description=self.description,
            epilog=self.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_options(parser)
        options = parser.parse_args(arguments)
        options.prog = parser.prog
        try:
            return self.run(options)
        except MegadgaError as error:
            if self.on_ranks:
                # Every rank raises it: only rank 0 reports it.
                if not isinstance(error, TrainingError) or rank_for_messages(os.environ) == 0:
                    complain(str(error))
            else:
                print(f"{parser.prog}: {error}", file=sys.stderr)
            return USER_ERROR
        except KeyboardInterrupt:
            hint = "; the same command continues" if self.continues else ""
            print(f"{parser.prog}: interrupted{hint}", file=sys.stderr)
            return INTERRUPTED


def complain(message: str) -> None:
    """Print each line of an error message; ranks other than 0 add their number."""
    rank = rank_for_messages(os.environ)
    prefix = "" if rank == 0 else f"[rank {rank}] "
    for line in message.splitlines():
        print(f"{prefix}{line}", file=sys.stderr)
