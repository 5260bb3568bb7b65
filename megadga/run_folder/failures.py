"""What ranks write when they fail, so that a launcher can name the rank that failed."""

import shutil
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from megadga.console import run_program
from megadga.errors import MegadgaError

FOLDER = ".failures"


_PRESENT = "present"


_MAX_NAMED = 4


MAX_CHARACTERS = 200
"""Of a message; those of gloo go on with resume_advice."""


@contextmanager
def record_failures(output: Path, *, rank: int) -> Generator[None]:
    """Note what ends a rank, beside letting it pass.

    Errors that a user can mend are told by themselves, and are not noted.

    Args:
        output: The run's folder. If it is not there yet, nothing is noted.
        rank: The number of the rank.
    """
    try:
        yield
    except MegadgaError:
        raise
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_CHARACTERS]
        with suppress(OSError):  # what matters is the error itself
            folder = output / FOLDER
            folder.mkdir(exist_ok=True)
            text = f"rank {rank} on {socket.gethostname()}: {message}"
            (folder / str(rank)).write_text(text, encoding="utf-8")
        raise


def record_start(output: Path, *, rank: int) -> None:
    """Note that a rank takes part, so that one that never says anything again can be named.

    Args:
        output: The run's folder, which is there.
        rank: The number of the rank.
    """
    with suppress(OSError):  # it is for a message alone
        folder = output / FOLDER / _PRESENT
        folder.mkdir(parents=True, exist_ok=True)
        text = f"rank {rank} on {socket.gethostname()}"
        (folder / str(rank)).write_text(text, encoding="utf-8")


def ranks_without_record(output: Path) -> tuple[str, ...]:
    """Return the ranks that took part and have not said why they ended, by number."""
    folder = output / FOLDER
    present = [path for path in (folder / _PRESENT).glob("*") if path.name.isdecimal()]
    silent = (path for path in present if not (folder / path.name).exists())
    ordered = sorted(silent, key=lambda path: int(path.name))
    return tuple(path.read_text(encoding="utf-8", errors="replace") for path in ordered)


def clear_failures(output: Path) -> None:
    """Remove what ranks of an earlier start have noted."""
    shutil.rmtree(output / FOLDER, ignore_errors=True)


def first_failure(output: Path) -> str | None:
    """Return what the first rank to fail has noted; None: none has."""
    notes = [path for path in (output / FOLDER).glob("*") if path.is_file()]
    if not notes:
        return None
    return min(notes, key=lambda path: path.stat().st_mtime_ns).read_text(encoding="utf-8")


def describe_failure(output: Path, code: int, lost: Sequence[str] = ()) -> str:
    """Return a launcher's last line about a run that failed.

    Args:
        output: The run's folder.
        code: The exit code of its ranks.
        lost: Names of hosts that do not answer any more, as far as the launcher knows.
    """
    why = first_failure(output)
    silent = () if why is None else ranks_without_record(output)
    more = f" and {len(silent) - _MAX_NAMED} more" if len(silent) > _MAX_NAMED else ""
    # Those that hang or were killed: the others say what they waited for in vain.
    if silent:
        why = f"{why}; no word from {', '.join(silent[:_MAX_NAMED])}{more}"
    why = why or "no rank has said why"
    hosts = f"; lost: {', '.join(lost)}" if lost else ""
    return f"the run ended with code {code}: {why}{hosts}"


if __name__ == "__main__":  # a batch script's last line: CODE OUTPUT [HOST ...]
    run_program(
        lambda: print(
            describe_failure(Path(sys.argv[2]), int(sys.argv[1]), sys.argv[3:]), file=sys.stderr
        )
    )
