import importlib
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.colours import COLOURS, NUM_STYLES, line_style, style_places
from megadga.report.domains import DomainInfo
from megadga.report.figures import build_report
from megadga.report.plots import DOTS_PER_INCH, SIZE_INCHES, draw_figure, write_figures
from megadga.report.runs import read_run
from tests.support.report_runs import MadeRun, domain_names, write_run_folder

RUN = MadeRun(("a", "b", "c"), steps=20)


def report_of(folder, *made, labels=None):
    runs = [read_run(write_run_folder(folder / f"run{n}", run)) for n, run in enumerate(made)]
    return build_report(runs, [DomainInfo(run.names, labels=labels or {}) for run in made])


def figure(report, key, run=0):
    """Return a figure drawn, by the key of its entry."""
    (shown,) = (each for each in report.figures if each.key == key)
    return draw_figure(report, shown, run=run)


def test_every_figure_is_written_in_every_format(tmp_path):
    report = report_of(tmp_path, RUN)
    written = write_figures(report, tmp_path / "figures")
    keys = {each.key for each in report.figures}
    assert {path.name for path in written} == {
        f"{key}.{suffix}" for key in keys for suffix in ("png", "svg", "pdf")
    }
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(starts[path.suffix[1:]]) for path in written)


def test_an_image_has_the_size_for_papers(tmp_path):
    (image,) = write_figures(report_of(tmp_path, RUN), tmp_path, keys=["weights"], formats=["png"])
    size = struct.unpack(">II", image.read_bytes()[16:24])
    assert size == tuple(round(side * DOTS_PER_INCH) for side in SIZE_INCHES)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    report = report_of(tmp_path, RUN)
    once, again = (
        write_figures(report, tmp_path / name, keys=["weights"]) for name in ("once", "again")
    )
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_what_shows_one_run_is_written_for_each_that_has_it(tmp_path):
    report = report_of(tmp_path, RUN, replace(RUN, fixed=True))
    keys = ["weights", "alignments", "general_loss"]
    written = write_figures(report, tmp_path / "figures", keys=keys, formats=["png"])
    assert {path.stem for path in written} == {
        "weights-run0",
        "weights-run1",
        "alignments-run0",
        "general_loss",
    }


def test_a_curve_has_the_values_of_the_run(tmp_path):
    report = report_of(tmp_path, RUN)
    (line,) = figure(report, "general_loss").axes[0].get_lines()
    np.testing.assert_array_equal(line.get_xdata(), report.runs[0].general.steps)
    np.testing.assert_array_equal(line.get_ydata(), report.runs[0].general.values[:, 0])


def test_seeds_are_drawn_as_their_mean(tmp_path):
    report = report_of(tmp_path, RUN, replace(RUN, seed=1))
    (line,) = figure(report, "general_loss").axes[0].get_lines()
    first, second = (run.general.values[:, 0] for run in report.runs)
    np.testing.assert_allclose(np.asarray(line.get_ydata()), (first + second) / 2.0)


def test_more_domains_than_areas_have_one_together(tmp_path):
    report = report_of(tmp_path, MadeRun(domain_names(20), steps=10))
    axes = figure(report, "weights").axes[0]
    assert len(axes.collections) == 13
    assert [text.get_text() for text in axes.texts][-1].startswith("8 others together  ")


def test_a_name_is_no_mathematics(tmp_path):
    names = ("$x^$", "$", "a$b")
    written = write_figures(report_of(tmp_path, replace(RUN, names=names)), tmp_path / "figures")
    assert all(path.stat().st_size for path in written)


def test_a_domain_has_one_colour_in_every_run():
    names = domain_names(NUM_STYLES)
    places = style_places(names, range(NUM_STYLES))
    assert places == style_places(names, range(NUM_STYLES)[::-1])
    assert [COLOURS[place % len(COLOURS)] for place in places] == [
        line_style(name, names)[0] for name in names
    ]
    assert len(set(places)) == NUM_STYLES


def test_of_very_many_domains_those_that_lead_differ():
    leading = np.random.default_rng(0).permutation(4096).tolist()
    places = style_places(domain_names(4096), leading)
    assert len({places[domain] for domain in leading[:NUM_STYLES]}) == NUM_STYLES


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "megadga.report.plots")
    with pytest.raises(ConfigError, match=r"pip install 'megadga\[report\]'"):
        importlib.import_module("megadga.report.plots")


def test_domains_have_their_labels_in_every_image_of_domains(tmp_path):
    report = report_of(tmp_path, RUN, labels={"b": "cell, protein"})
    for key in ("weights", "weights_by_domain", "alignments", "epochs"):
        axes = figure(report, key).axes
        texts = [text.get_text() for each in axes for text in each.texts]
        texts += [each.get_title(loc="left") for each in axes]
        texts += [text.get_text() for each in axes for text in each.get_yticklabels()]
        assert sum("b (cell, protein)" in text for text in texts) == 1, key


@pytest.mark.parametrize("length", [1, 30])
def test_labels_end_within_the_image_however_long_they_are(tmp_path, length):
    report = report_of(tmp_path, replace(RUN, names=("a" * length, "b", "c")))
    drawn = figure(report, "weights")
    (axes,) = drawn.axes
    right = max(note.get_window_extent().x1 for note in axes.texts)
    assert right == pytest.approx(0.99 * drawn.bbox.width, rel=1e-9)
    assert axes.get_position().x0 == pytest.approx(0.08)
