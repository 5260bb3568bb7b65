import json
from dataclasses import replace

import pytest

from megadga.cli import main
from megadga.commands.report import watch
from tests.support.report_runs import MadeRun, records, write_run_folder

RUN = MadeRun(("a", "b"), steps=10)


def log(folder, run):
    """Write what a run has logged meanwhile."""
    lines = "".join(json.dumps(record) + "\n" for record in records(run))
    (folder / "metrics.jsonl").write_text(lines)


def test_a_run_has_its_page_in_its_folder(tmp_path, capsys):
    folder = write_run_folder(tmp_path / "run", RUN)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_several_runs_have_one_page_where_it_is_asked_for(tmp_path, capsys):
    folders = [write_run_folder(tmp_path / name, RUN) for name in ("x", "y")]
    page = tmp_path / "pages" / "both.html"
    assert main(["report", *map(str, folders), "--output", str(page)]) == 0
    assert '"name":"x"' in page.read_text()
    assert '"name":"y"' in page.read_text()


def test_figures_are_written_beside_the_page(tmp_path, capsys):
    folder = write_run_folder(tmp_path / "run", replace(RUN, fixed=True))
    assert main(["report", str(folder), "--figures", str(tmp_path / "figures")]) == 0
    _, *images = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "figures" / "weights.svg") in images
    assert not [image for image in images if "alignments" in image]


@pytest.mark.parametrize("name", ["none", "."])
def test_what_is_no_run_exits_with_2(tmp_path, capsys, name):
    assert main(["report", str(tmp_path / name)]) == 2
    assert "expected" in capsys.readouterr().err


def test_a_run_is_followed_to_its_end(tmp_path):
    going = replace(RUN, steps=4, total_steps=10)
    folder = write_run_folder(tmp_path / "run", going)
    page = tmp_path / "page.html"
    told, watched = [], []

    def trains(_):
        watched.append('"reload_s":15' in page.read_text())
        log(folder, replace(RUN, steps=7 if len(watched) == 1 else 10))

    watch([folder], page, told=told.append, sleep=trains)

    assert told == [f"{page}: run at step {step}" for step in (4, 7, 10)]
    assert watched == [True, True]
    assert '"reload_s":null' in page.read_text()


def test_a_run_that_logs_nothing_is_not_drawn_again(tmp_path):
    folder = write_run_folder(tmp_path / "run", replace(RUN, steps=4, total_steps=10))
    page = tmp_path / "page.html"
    sleeps = []

    def waits(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 3:
            raise KeyboardInterrupt

    told = []
    report = watch([folder], page, told=told.append, sleep=waits)
    assert len(told) == 1
    assert report.runs[0].last_step == 4
    assert '"reload_s":null' in page.read_text()
    assert not list(tmp_path.glob("*.partial"))
