"""Command that shows runs: `megadga report`."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from megadga.commands.command import Command
from megadga.data.files import atomic_write
from megadga.prepare.extras import import_extra
from megadga.report.domains import read_domain_info
from megadga.report.figures import Report, build_report
from megadga.report.runs import RunHistory, read_run
from megadga.run_folder import METRICS_FILE

_PAGE = "report.html"
_POLL_S = 2.0
"""Seconds between two looks at the runs' metrics."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="output folders of runs, or one of them")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"the page; by default {_PAGE} in the run's folder, of several runs in this one",
    )
    add("--figures", type=Path, metavar="DIR", help="write each figure as PNG, SVG and PDF, too")
    add(
        "--watch",
        action="store_true",
        help="write the page again whenever a run has progressed, until all are done or Ctrl-C; "
        "an open page loads itself again",
    )


def _report(options: argparse.Namespace) -> int:
    import_extra("plotly", extra="report")  # before runs are read, which may take a while
    folders: list[Path] = options.runs
    page: Path = options.output or (folders[0] / _PAGE if len(folders) == 1 else Path(_PAGE))
    if options.watch:
        report = watch(folders, page, told=lambda line: print(line, flush=True))
    else:
        report = read_report(folders)
        write_page(report, page, watched=False)
        print(page)
    if options.figures:
        from megadga.report.plots import write_figures  # noqa: PLC0415

        print("\n".join(map(str, write_figures(report, options.figures))))
    return 0


def read_report(folders: Sequence[Path]) -> Report:
    """Return the report over runs.

    Raises:
        ConfigError: If a folder is not a run's, or one of its files cannot be read.
    """
    runs: list[RunHistory] = [read_run(folder) for folder in folders]
    return build_report(runs, [read_domain_info(folder) for folder in folders])


def write_page(report: Report, page: Path, *, watched: bool) -> None:
    """Write the page of a report, whole or not at all.

    Args:
        report: What it shows.
        page: The file; its folder is made if it is not there.
        watched: Whether it loads itself again.

    Raises:
        OSError: If it cannot be written.
    """
    from megadga.report.page import render_page  # noqa: PLC0415

    text = render_page(report, watched=watched)
    page.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(page, durable=False) as file:
        file.write(text.encode())


def watch(
    folders: Sequence[Path],
    page: Path,
    *,
    told: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Write the page again whenever a run has progressed, until all are done or Ctrl-C.

    The last page that is written does not load itself again.

    Args:
        folders: Of the runs.
        page: The file.
        told: Called with a line each time that it is written.
        sleep: Waits for seconds.

    Returns:
        The last report.

    Raises:
        ConfigError: If a folder is not a run's, or one of its files cannot be read.
        OSError: If the page cannot be written.
    """
    seen: list[tuple[int, int]] = []
    report: Report | None = None
    try:
        while report is None or any(run.last_step < run.total_steps for run in report.runs):
            found = [_progress(folder) for folder in folders]
            if report is None or found != seen:
                seen, report = found, read_report(folders)
                write_page(report, page, watched=True)
                told(f"{page}: {_steps(report)}")
            else:
                sleep(_POLL_S)
    except KeyboardInterrupt:
        if report is None:
            raise
    write_page(report, page, watched=False)
    return report


def _steps(report: Report) -> str:
    runs = zip(report.names, report.runs, strict=True)
    return ", ".join(f"{name} at step {run.last_step:,}" for name, run in runs)


def _progress(folder: Path) -> tuple[int, int]:
    """Return what differs once a run has logged something; zeros: there is no such file yet."""
    try:
        status = (folder / METRICS_FILE).stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


REPORT = Command(
    "Show runs, finished or not, side by side as one HTML file that opens offline.",
    _add_options,
    _report,
    epilog="""\
examples:
  megadga report runs/example
  megadga report runs/dga-* runs/uniform-* --output compare.html --figures figures
  megadga report runs/example --watch

docs/report.md describes every figure. Runs that differ in their seed alone are drawn as
their mean.""",
)
