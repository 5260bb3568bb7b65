from dataclasses import replace
from pathlib import Path

import numpy as np

from megadga.report import figures
from megadga.report.domains import DomainInfo
from megadga.report.figures import Report, build_report
from megadga.report.runs import read_run
from tests.support.report_runs import MadeRun, write_run_folder

RUN = MadeRun(("a", "b", "c"), steps=20)


def report_of(folder: Path, *made: MadeRun, info: DomainInfo | None = None) -> Report:
    runs = [
        read_run(write_run_folder(folder / f"run{number}", run)) for number, run in enumerate(made)
    ]
    infos = [info or DomainInfo(run.names) for run in made]
    return build_report(runs, infos)


def drawn(report: Report) -> set[str]:
    return {figure.key for figure in report.figures if report.is_drawn(figure)}


def test_a_run_with_probes_has_every_figure(tmp_path):
    report = report_of(tmp_path, RUN)
    assert drawn(report) == {figure.key for figure in report.figures}


def test_a_run_with_fixed_weights_lacks_what_is_measured_alone(tmp_path):
    report = report_of(tmp_path, replace(RUN, fixed=True))
    absent = {figure.key: figure.absent for figure in report.figures}
    assert set(absent) - drawn(report) == {"alignments", "epochs", "overhead"}
    assert "weights are fixed" in absent["alignments"]


def test_layers_hold_what_was_logged(tmp_path):
    report = report_of(tmp_path, RUN)
    (run,) = report.runs
    (weights,) = report.layers["weights"].runs
    assert weights is not None
    np.testing.assert_array_equal(weights.steps, [0, 5, 10, 15, 20])
    np.testing.assert_array_equal(weights.values, run.weights.weights)
    (alignment,) = report.layers["alignment0"].runs
    assert alignment is not None
    np.testing.assert_array_equal(alignment.values, run.alignments["the specific set"].alignments)


def test_a_cosine_is_an_alignment_by_both_norms(tmp_path):
    report = report_of(tmp_path, RUN)
    alignment, cosine = (report.layers[key].runs[0] for key in ("alignment0", "cosine0"))
    assert alignment is not None
    assert cosine is not None
    np.testing.assert_array_equal(cosine.values, alignment.values / (4.0 * 2.0))


def test_the_set_is_named_as_in_the_configuration(tmp_path):
    report = report_of(tmp_path, RUN)
    titles = [figure.title for figure in report.figures if figure.kind == "heat_map"]
    assert titles == ["Alignments with qa"]


def test_tokens_add_up_to_all_that_were_trained(tmp_path):
    report = report_of(tmp_path, RUN)
    (tokens,) = report.layers["tokens"].runs
    assert tokens is not None
    assert np.nansum(tokens.values[-1]) == 20 * 8 * 128


def test_runs_over_other_domains_share_their_names(tmp_path):
    report = report_of(tmp_path, RUN, replace(RUN, names=("b", "d")))
    assert report.spaces["domains"].names == ("a", "b", "c", "d")
    first, second = report.layers["validation"].runs
    assert first is not None
    assert second is not None
    assert np.isnan(first.values[:, 3]).all()
    assert np.isnan(second.values[:, [0, 2]]).all()
    assert np.isfinite(second.values[:, [1, 3]]).all()


def test_the_heaviest_domain_of_any_run_leads(tmp_path):
    report = report_of(tmp_path, RUN, replace(RUN, seed=1))
    peaks = np.maximum(*(run.weights.weights.max(axis=0) for run in report.runs))
    assert report.spaces["domains"].leading == tuple(np.argsort(-peaks, kind="stable"))


def test_groups_have_sums_of_weights_and_means_of_losses(tmp_path):
    info = DomainInfo(RUN.names, groups={"ab": ("a", "b")})
    report = report_of(tmp_path, RUN, info=info)
    (run,) = report.runs
    assert report.spaces["groups"].names == ("ab", "other")
    weights, losses = (report.layers[f"{key}@groups"].runs[0] for key in ("weights", "validation"))
    assert weights is not None
    assert losses is not None
    np.testing.assert_allclose(weights.values[:, 0], run.weights.weights[:, :2].sum(axis=1))
    np.testing.assert_allclose(losses.values[:, 0], run.domains.values[:, :2].mean(axis=1))


def test_quantities_by_domain_have_as_many_steps_as_their_number_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MOST_CELLS", 150)
    report = report_of(tmp_path, replace(RUN, steps=60, interval=1))
    (weights,) = report.layers["weights"].runs
    assert weights is not None
    assert weights.steps[[0, -1]].tolist() == [0, 60]
    assert len(weights.steps) == 50


def test_a_run_that_has_only_started_has_a_report(tmp_path):
    report = report_of(tmp_path, replace(RUN, steps=0, total_steps=20))
    assert drawn(report) <= {"weights", "weights_by_domain", "effective_domains", "events"}
