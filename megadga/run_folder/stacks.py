"""Stacks of ranks that made no progress: ``stacks/rank-00003.txt``, and which ranks are behind.

The first line of a file is a `StackReport` in JSON, the rest is for people. A file without that
line was written by Python's fault handler, as the rank's interpreter was held by a call; an empty
one belongs to a rank that could not write: stopped, killed, or on a machine that is lost.
"""

import json
import linecache
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

STACKS = "stacks"
"""Name of the folder in a run's output folder."""


_MAX_NAMED = 8
"""Ranks listed in a message; there may be thousands."""


_COLLECTIVES = ("torch/distributed/", "deepspeed/comm/")


_LIBRARIES = ("torch/", "deepspeed/", "megadga/")


_WAITS = (".wait(", "synchronize(", ".item()", ".cpu()", ".tolist()")
"""In a line of code: where a process waits for its device, and so perhaps for other ranks."""


@dataclass(frozen=True)
class StackReport:
    """What a rank was doing when it had made no progress for too long.

    Attributes:
        rank: The rank.
        host: Its machine.
        pid: Its process.
        step: The optimizer step in progress, from 1.
        phase: What it was doing, in a few words.
        idle_s: Seconds since its last progress.
        at: The innermost function of its main thread, with file and line.
        waits: Whether that is in a collective, or waits for the device.
    """

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    idle_s: float
    at: str
    waits: bool

    def describe(self) -> str:
        """Return a few words about it."""
        return f"rank {self.rank} on {self.host} (step {self.step}, {self.phase}: {self.at})"


def stack_path(output: Path, rank: int) -> Path:
    """Return the path of a rank's file."""
    return output / STACKS / f"rank-{rank:05d}.txt"


def keep_earlier_stacks(output: Path) -> None:
    """Move stacks of an earlier start to ``stacks.1``, ``stacks.2`` ...; on one rank.

    Raises:
        OSError: If they cannot be moved.
    """
    folder = output / STACKS
    if not folder.is_dir():
        return
    if not any(path.stat().st_size for path in folder.iterdir()):
        shutil.rmtree(folder)
        return
    number = 1
    while (kept := output / f"{STACKS}.{number}").exists():
        number += 1
    folder.rename(kept)


def locate_main_thread() -> tuple[str, bool]:
    """Return where this process's main thread is, and whether it waits there for other ranks."""
    frame = _frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "unknown", False
    return _locate(frame)


def _locate(frame: FrameType) -> tuple[str, bool]:
    path, line = frame.f_code.co_filename, frame.f_lineno
    at = f"{frame.f_code.co_name} in {path}:{line}"
    if any(part in path for part in _COLLECTIVES):
        return at, True
    code = linecache.getline(path, line)
    of_library = any(part in path for part in _LIBRARIES)
    return at, of_library and any(wait in code for wait in _WAITS)


def format_threads() -> str:
    """Return the stacks of all Python threads of this process, the main thread's first."""
    frames = _frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    parts: list[str] = []
    for ident in sorted(frames, key=lambda ident: ident != main):
        stack = "".join(traceback.format_stack(frames[ident]))
        parts.append(
            f"Thread {names.get(ident, 'without a name')} (most recent call last):\n{stack}"
        )
    return "\n".join(parts)


def _frames() -> dict[int, FrameType]:
    """Return the innermost frame of every thread that runs Python."""
    return sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def format_report(report: StackReport, *, threads: str) -> str:
    """Return the content of a rank's file."""
    return (
        f"{json.dumps(asdict(report))}\n\n"
        f"rank {report.rank} on {report.host}, process {report.pid}: no progress for "
        f"{report.idle_s:.1f} s in step {report.step}, {report.phase}\n\n{threads}"
    )


def read_report(path: Path) -> StackReport | None:
    """Return a rank's report; None if there is none."""
    try:
        return StackReport(**json.loads(path.read_text(errors="replace").partition("\n")[0]))
    except (OSError, ValueError, TypeError):
        return None


def has_stack(path: Path) -> bool:
    """Return whether a rank has written anything."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def describe_stall(output: Path, hosts: Sequence[str]) -> str:
    """Return a line about a run without progress: where the stacks are, which ranks are behind.

    Args:
        output: The run's folder.
        hosts: The machine of each rank.
    """
    paths = [stack_path(output, rank) for rank in range(len(hosts))]
    reports = {rank: report for rank, path in enumerate(paths) if (report := read_report(path))}
    written = sum(map(has_stack, paths))
    behind = [*_without_report(paths, reports, hosts), *_behind(reports)]
    what = "behind" if behind else "all wait for each other"
    listed = behind or [report.describe() for report in _one_of_each_place(reports)]
    more = f" and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else ""
    return (
        f"stacks of {written} of {len(hosts)} ranks are in {output / STACKS}; "
        f"{what}: {'; '.join(listed[:_MAX_NAMED])}{more}"
    )


def _without_report(
    paths: Sequence[Path], reports: Mapping[int, StackReport], hosts: Sequence[str]
) -> Iterator[str]:
    for rank, path in enumerate(paths):
        if rank not in reports:
            held = has_stack(path)
            why = "in a call that holds the interpreter" if held else "no stack: stopped or lost"
            yield f"rank {rank} on {hosts[rank]} ({why})"


def _behind(reports: Mapping[int, StackReport]) -> Iterator[str]:
    """Yield the ranks in an earlier step than others, or that wait for none."""
    latest = max((report.step for report in reports.values()), default=0)
    for report in reports.values():
        if report.step < latest or not report.waits:
            yield report.describe()


def _one_of_each_place(reports: Mapping[int, StackReport]) -> list[StackReport]:
    """Return the first rank of those that wait at the same place: collectives may differ."""
    first: dict[str, StackReport] = {}
    for report in reports.values():
        first.setdefault(report.at, report)
    return [*first.values()]


def remove_stack(output: Path, rank: int) -> None:
    """Remove a rank's file, and the folder if it was the last one."""
    with suppress(OSError):
        stack_path(output, rank).unlink(missing_ok=True)
        (output / STACKS).rmdir()
