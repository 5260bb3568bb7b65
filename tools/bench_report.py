"""Time a browser that draws a report over 4,096 domains, beside one that loads plotly alone.

Needs Debian's chromium and chromium-driver. Writes build/bench/report.json.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from plotly.offline import get_plotlyjs

from megadga.console import run_program, tool_parser
from megadga.errors import ConfigError
from megadga.report.domains import DomainInfo
from megadga.report.figures import build_report
from megadga.report.page import render_page
from megadga.report.runs import read_run
from tests.support.browser import open_browser, why_no_browser
from tests.support.report_runs import MadeRun, domain_names, write_run_folder

MOST_S = 2.0
"""In which all figures are to be drawn, on an otherwise idle machine."""

_EMPTY = """<!doctype html><body data-drawn="false"><div id="plot"></div>
<script>{}</script><script>
Plotly.newPlot("plot", [{{ x: [1, 2], y: [1, 2] }}]).then(() => {{
  document.body.dataset.drawn = "true";
  performance.mark("drawn");
}});
</script>"""


def main() -> int:
    """Measure both pages in turn, print and write the medians; exit with 1 above ``MOST_S``."""
    parser = tool_parser(__doc__, "")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if reason := why_no_browser():
        raise ConfigError(reason)
    times: dict[str, list[float]] = {"report": [], "plotly alone": []}
    with TemporaryDirectory() as folder, open_browser() as page:
        paths = _pages(Path(folder))
        for _ in range(options.repeats):
            for name, path in paths.items():
                page.open(path)
                drawn = page.run("return performance.getEntriesByName('drawn')[0].startTime")
                times[name].append(drawn / 1000.0)
    medians = {name: sorted(found)[len(found) // 2] for name, found in times.items()}
    ratio = medians["report"] / medians["plotly alone"]
    for name, median in medians.items():
        print(f"{name}: drawn after {median:.2f} s (median of {options.repeats})")
    print(f"ratio: {ratio:.1f}")
    output = Path("build/bench/report.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"seconds": times, "medians": medians, "ratio": ratio}))
    return int(medians["report"] > MOST_S)


def _pages(folder: Path) -> dict[str, Path]:
    made = MadeRun(domain_names(4096), steps=400, interval=4)
    run = read_run(write_run_folder(folder / "run", made))
    report = build_report([run], [DomainInfo(made.names)])
    pages = {"report": render_page(report, watched=False)}
    pages["plotly alone"] = _EMPTY.format(get_plotlyjs())
    paths: dict[str, Path] = {}
    for name, text in pages.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(text, encoding="utf-8")
    return paths


if __name__ == "__main__":
    run_program(main)
