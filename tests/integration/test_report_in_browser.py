"""The page of a report in a real browser: what is drawn, hovered, searched, sorted, toggled."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from megadga.report.domains import DomainInfo
from megadga.report.figures import Report, build_report
from megadga.report.page import render_page
from megadga.report.runs import read_run
from tests.support.browser import SIZES, Page, open_browser, why_no_browser
from tests.support.report_runs import MadeRun, domain_names, write_run_folder

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())

FEW = MadeRun(domain_names(16), steps=40)
MANY = MadeRun(domain_names(4096), steps=12, interval=3)
HOSTILE = "</script><img src=x onerror='window.hacked = 1'><b>bold</b>"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_browser() as opened:
        yield opened


def write(
    folder: Path, runs: dict[str, MadeRun], groups: dict | None = None
) -> tuple[Report, Path]:
    read = [read_run(write_run_folder(folder / name, run)) for name, run in runs.items()]
    infos = [DomainInfo(run.names, groups=groups or {}) for run in runs.values()]
    report = build_report(read, infos)
    path = folder / "report.html"
    path.write_text(render_page(report, watched=False), encoding="utf-8")
    return report, path


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> tuple[Report, Path]:
    """Two seeds of DGA and two of fixed weights, over 16 domains."""
    runs = {
        f"{name}-seed{seed}": replace(FEW, seed=seed, fixed=name == "uniform")
        for name in ("dga", "uniform")
        for seed in (0, 1)
    }
    groups = {"code": FEW.names[:4], "prose": FEW.names[4:12]}
    return write(tmp_path_factory.mktemp("few"), runs, groups)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[Report, Path]:
    """One run over 4,096 domains."""
    return write(tmp_path_factory.mktemp("many"), {"many": MANY})


ROWS = (
    "return [...document.querySelectorAll('#domains tbody th button')]"
    ".map((each) => each.textContent)"
)
"""Names in the table of domains."""
MARKS = """
return Object.fromEntries(REPORT.figures.map((figure) => {
  const plot = document.getElementById(`plot-${figure.key}`);
  const drawn = [...plot.querySelectorAll(".trace path, .heatmaplayer image")].filter((mark) => {
    const box = mark.getBoundingClientRect();
    return box.width > 0 || box.height > 0;
  });
  return [figure.key, drawn.length];
}));
"""


@pytest.mark.parametrize("width", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("size", ["few", "many"])
def test_every_figure_is_drawn_and_nothing_complains(page, request, size, width):
    report, path = request.getfixturevalue(size)
    page.errors()
    page.open(path, width=width)
    marks = page.run(MARKS)
    assert page.errors() == []
    assert set(marks) == {figure.key for figure in report.figures}
    assert [key for key, number in marks.items() if not number] == []
    assert page.run("return document.documentElement.scrollWidth") <= width


def test_a_run_that_lacks_a_figure_says_why(page, few):
    page.open(few[1])
    page.act(
        "const of = document.getElementById('detail'); of.value = 'uniform-seed0';"
        "of.dispatchEvent(new Event('change', {bubbles: true}));"
    )
    absent = page.run("return document.querySelector('#alignments .absent').textContent")
    assert absent.startswith("Not drawn: uniform-seed0: alignments are not measured: the weights")
    assert page.run(MARKS)["weights"] > 0


@pytest.mark.parametrize("size", ["few", "many"])
def test_hovering_a_line_shows_the_values_that_were_logged(page, request, size):
    report, path = request.getfixturevalue(size)
    page.open(path)
    page.act("if (STATE.average) document.getElementById('average').click()")
    specific = report.runs[0].specific
    place = specific.steps.size // 2
    text = page.hover("specific_loss", int(specific.steps[place]), specific.values[place, 0])
    # Lines of runs may be closer to each other than a pixel: any of them is hovered.
    found = re.fullmatch(r"(\D+|\D+-seed\d)step (\d+)(\d\.\d+)", text)
    assert found is not None
    name, step, loss = found.groups()
    hovered = report.runs[report.names.index(name)]
    assert int(step) == hovered.specific.steps[place]
    assert loss == f"{hovered.specific.values[place, 0]:.5g}"


@pytest.mark.parametrize("size", ["few", "many"])
def test_hovering_a_heat_map_shows_alignment_error_and_cosine(page, request, size):
    report, path = request.getfixturevalue(size)
    page.open(path)
    first = report.spaces["domains"].leading[0]
    history = report.runs[0].alignments["the specific set"]
    text = page.hover("alignments", float(history.steps[2]), 0.0)
    value = float(history.alignments[2, first])
    assert text.startswith(f"{history.names[first]}step {history.steps[2]}alignment ")
    assert f"alignment {_short(value)} ± 0.25" in text
    assert f"significance {_short(value / 0.25)}" in text
    assert f"cosine {_short(value / 8.0)}" in text


def _short(value: float) -> str:
    return f"{value:.4g}".removesuffix(".0")


@pytest.mark.parametrize("size", ["few", "many"])
def test_what_is_searched_for_is_shown_first_everywhere(page, request, size):
    report, path = request.getfixturevalue(size)
    page.open(path)
    last = report.spaces["domains"].names[report.spaces["domains"].leading[-1]]
    page.search(last)
    shown = page.run(
        """
        const plot = (key) => document.getElementById(`plot-${key}`);
        return {
          matches: document.getElementById("matches").textContent,
          area: plot("weights").data[0].name,
          panel: plot("weights_by_domain").layout.annotations[0].text,
          row: plot("alignments").layout.yaxis.ticktext[0],
          line: plot("epochs").data[0].name,
          faded: plot("epochs").data.slice(1, 5).map((trace) => trace.opacity),
        };"""
    )
    assert page.run(ROWS) == [last]
    number = len(report.spaces["domains"].names)
    assert shown == {
        "matches": f"1 of {number:,} found",
        "area": last,
        "panel": last,
        "row": f"<b>▸ {last}</b>",
        "line": last,
        "faded": [0.15] * 4,
    }
    page.search("")


def test_a_heading_sorts_by_keyboard_the_table_and_the_figures(page, few):
    report, path = few
    page.open(path)
    heading = page.driver.find_element("css selector", "#domains [data-key=validation] button")
    page.run("arguments[0].focus()", heading)
    heading.send_keys("\n")
    page.wait("STATE.order === 'validation'")
    page.wait()
    losses = dict(
        zip(report.runs[0].domains.names, report.runs[0].domains.values[-1], strict=True)
    )
    worst = sorted(losses, key=losses.__getitem__, reverse=True)
    found = page.run(
        """
        const head = document.querySelector("#domains [data-key=validation]");
        return {
          sort: head.getAttribute("aria-sort"),
          focus: head.contains(document.activeElement),
          panels: document.getElementById("plot-domain_losses").layout.annotations
            .map((each) => each.text),
        };"""
    )
    assert found == {"sort": "descending", "focus": True, "panels": worst[:12]}
    assert page.run(ROWS) == worst


def test_the_slash_key_goes_to_the_search(page, few):
    page.open(few[1])
    page.driver.find_element("tag name", "body").send_keys("/")
    assert page.run("return document.activeElement.id") == "search"


def test_runs_of_a_group_are_a_mean_with_a_band_or_lines_of_their_own(page, few):
    page.open(few[1])
    names = (
        "return document.getElementById('plot-general_loss').data"
        ".filter((trace) => trace.showlegend).map((trace) => trace.name)"
    )
    assert page.run(names) == ["dga (mean of 2 seeds)", "uniform (mean of 2 seeds)"]
    page.act("document.getElementById('average').click()")
    assert page.run(names) == ["dga-seed0", "dga-seed1", "uniform-seed0", "uniform-seed1"]


def test_a_mean_is_that_of_the_runs(page, few):
    report, path = few
    page.open(path)
    drawn = page.run(
        "return document.getElementById('plot-general_loss').data"
        ".find((trace) => trace.name?.startsWith('dga')).y"
    )
    first, second = (run.general.values[:, 0] for run in report.runs[:2])
    assert drawn == pytest.approx(((first + second) / 2.0).tolist(), rel=1e-6)  # float32


def test_a_run_that_is_switched_off_is_drawn_nowhere(page, few):
    page.open(few[1])
    for place in (3, 4):
        page.act(f"document.querySelector('#runs tr:nth-child({place}) input').click()")
    for key in ("specific_loss", "throughput", "weights_by_domain"):
        data = page.run(
            f"return document.getElementById('plot-{key}').data.map((t) => t.name ?? '')"
        )
        assert not [name for name in data if "uniform" in name]
        assert [name for name in data if "dga" in name]


def test_what_was_chosen_outlasts_a_reload(page, few):
    page.open(few[1])
    page.search("c0003")
    page.driver.refresh()
    page.wait()
    assert page.run("return document.getElementById('search').value") == "c0003"
    page.search("")


def test_domains_are_summed_over_groups(page, few):
    page.open(few[1])
    page.act(
        "const by = document.getElementById('by'); by.value = 'groups';"
        "by.dispatchEvent(new Event('change', {bubbles: true}));"
    )
    names = page.run("return document.getElementById('plot-weights').data.map((t) => t.name)")
    assert set(names) >= {"code", "prose", "other"}
    page.run("STATE.by = ''; saveState()")


def test_the_theme_follows_the_system_and_the_button(page, few):
    page.open(few[1], dark=True)
    theme = "return document.documentElement.dataset.theme"
    assert page.run(theme) == "dark"
    page.act("document.getElementById('theme').click()")
    assert page.run(theme) == "light"
    page.driver.refresh()
    page.wait()
    assert page.run(theme) == "light"
    page.act("document.getElementById('theme').click()")
    assert page.run(theme) == "dark"
    page.act("document.getElementById('theme').click()")
    assert page.run("return theme()") == "auto"


def test_names_are_text_whatever_they_contain(page, tmp_path):
    _, path = write(tmp_path, {"run": MadeRun((HOSTILE, "b"), steps=10)})
    page.errors()
    page.open(path)
    assert page.errors() == []
    assert page.run("return window.hacked") is None
    assert page.run("return document.images.length") == 0
    assert HOSTILE in page.run(ROWS)
