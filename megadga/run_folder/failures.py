"""Failure records of ranks, from which a launcher names the rank that failed first."""

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
"""Limit of a recorded message; gloo appends long advice to its errors."""


@contextmanager
def record_failures(output: Path, *, rank: int) -> Generator[None]:
    """Record the exception that ends a rank, and re-raise it.

    User errors (``MegadgaError``) are reported elsewhere and not recorded.

    Args:
        output: The run's folder. If it does not exist, nothing is recorded.
        rank: The rank.
    """
    try:
        yield
    except MegadgaError:
        raise
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_CHARACTERS]
        write_failure(output, rank=rank, message=message)
        raise


def write_failure(output: Path, *, rank: int, message: str) -> None:
    """Record what ends a rank; nothing is recorded if that fails.

    Args:
        output: The run's folder.
        rank: The rank.
        message: In one line.
    """
    with suppress(OSError):  # keep the original error
        folder = output / FOLDER
        folder.mkdir(exist_ok=True)
        text = f"rank {rank} on {socket.gethostname()}: {message}"
        (folder / str(rank)).write_text(text, encoding="utf-8")


def has_failure(output: Path, *, rank: int) -> bool:
    """Return whether a rank has recorded a failure since the run was started."""
    return (output / FOLDER / str(rank)).exists()


def record_start(output: Path, *, rank: int) -> None:
    """Record that a rank has started, so that ranks without a failure record can be named.

    Args:
        output: The run's folder, which exists.
        rank: The rank.
    """
    with suppress(OSError):  # used only for an error message
        folder = output / FOLDER / _PRESENT
        folder.mkdir(parents=True, exist_ok=True)
        text = f"rank {rank} on {socket.gethostname()}"
        (folder / str(rank)).write_text(text, encoding="utf-8")


def ranks_without_record(output: Path) -> tuple[str, ...]:
    """Return the ranks that started and left no failure record, in order of rank."""
    folder = output / FOLDER
    present = [path for path in (folder / _PRESENT).glob("*") if path.name.isdecimal()]
    silent = (path for path in present if not (folder / path.name).exists())
    ordered = sorted(silent, key=lambda path: int(path.name))
    return tuple(path.read_text(encoding="utf-8", errors="replace") for path in ordered)


def clear_failures(output: Path) -> None:
    """Remove the records of an earlier start."""
    shutil.rmtree(output / FOLDER, ignore_errors=True)


def first_failure(output: Path) -> str | None:
    """Return the record of the first rank that failed, None if there is none."""
    notes = [path for path in (output / FOLDER).glob("*") if path.is_file()]
    if not notes:
        return None
    return min(notes, key=lambda path: path.stat().st_mtime_ns).read_text(encoding="utf-8")


def describe_failure(output: Path, code: int, lost: Sequence[str] = ()) -> str:
    """Return the launcher's final message about a failed run.

    Args:
        output: The run's folder.
        code: The exit code of its ranks.
        lost: Names of hosts that no longer respond, as far as the launcher knows.
    """
    why = first_failure(output)
    silent = () if why is None else ranks_without_record(output)
    more = f" and {len(silent) - _MAX_NAMED} more" if len(silent) > _MAX_NAMED else ""
    # Ranks that hang or were killed leave no record; the others report a time-out.
    if silent:
        why = f"{why}; no failure record from {', '.join(silent[:_MAX_NAMED])}{more}"
    why = why or "no rank recorded a failure"
    hosts = f"; lost hosts: {', '.join(lost)}" if lost else ""
    return f"the run ended with code {code}: {why}{hosts}"


if __name__ == "__main__":  # a batch script's last line: CODE OUTPUT [HOST ...]
    run_program(
        lambda: print(
            describe_failure(Path(sys.argv[2]), int(sys.argv[1]), sys.argv[3:]), file=sys.stderr
        )
    )
