import base64
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.advice import findings
from megadga.report.domains import DomainInfo
from megadga.report.figures import Report, build_report
from megadga.report.page import embed_json, page_data, render_page
from megadga.report.runs import read_run
from tests.support.histories import run_of, weights_of
from tests.support.report_runs import MadeRun, domain_names, write_run_folder

RUN = MadeRun(("a", "b"), steps=20)
HOSTILE = '</script><script>window.hacked = 1</script><!-- &lt; "\u2028'


def report_of(folder: Path, run: MadeRun = RUN) -> Report:
    return build_report([read_run(write_run_folder(folder, run))], [DomainInfo(run.names)])


def embedded(page: str) -> dict:
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(text)


def decoded(array: dict) -> np.ndarray:
    kind, content = next((kind, array[kind]) for kind in ("float32", "int32") if kind in array)
    return np.frombuffer(base64.b64decode(content), dtype=kind).reshape(array["shape"])


def test_the_page_has_the_values_of_the_run(tmp_path):
    report = report_of(tmp_path / "run")
    (weights,) = embedded(render_page(report, watched=False))["layers"]["weights"]["runs"]
    (run,) = report.runs
    np.testing.assert_array_equal(decoded(weights["steps"]), run.weights.steps)
    np.testing.assert_array_equal(
        decoded(weights["values"]), run.weights.weights.astype(np.float32)
    )


def test_the_page_loads_nothing(tmp_path):
    page = render_page(report_of(tmp_path / "run"), watched=False)
    own = page.replace(re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0], "")  # plotly
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:,|#)""", own)
    assert "default-src 'none'" in page


def test_data_cannot_end_the_script_that_it_is_in(tmp_path):
    report = report_of(tmp_path / "run", MadeRun((HOSTILE, "b"), steps=10))
    page = render_page(report, watched=False)
    assert page.count("</script>") == 3
    assert embedded(page)["spaces"]["domains"]["names"] == [HOSTILE, "b"]


@pytest.mark.parametrize("text", [HOSTILE, "{{data}}", "a\\u003cb"])
def test_embedded_text_is_read_back_as_it_was(text):
    embedded_text = embed_json({text: text})
    assert json.loads(embedded_text) == {text: text}
    assert not set("<>&\u2028\u2029") & set(embedded_text)


def test_names_in_double_braces_are_not_filled_in(tmp_path):
    report = report_of(tmp_path / "run", MadeRun(("{{plotly}}", "b"), steps=10))
    page = render_page(report, watched=False)
    assert embedded(page)["spaces"]["domains"]["names"] == ["{{plotly}}", "b"]


def test_a_page_that_is_watched_loads_itself_again(tmp_path):
    report = report_of(tmp_path / "run")
    reloads = [embedded(render_page(report, watched=on))["reload_s"] for on in (True, False)]
    assert reloads == [15, None]


def test_findings_are_in_the_data_of_their_run():
    weights = weights_of([0.5, 0.5], names=("a", "few"))
    run = run_of(steps=200, weights=weights, epochs={"a": [0.01, 0.02], "few": [0.5, 0.9]})
    (finding,) = findings(run)
    data = page_data(build_report([run], [DomainInfo(("a", "few"))]))
    assert data["runs"][0]["findings"] == [asdict(finding)]


def test_a_long_run_over_16_domains_stays_below_6_megabytes(tmp_path):
    made = MadeRun(domain_names(16), steps=10_000, interval=20)
    size = len(render_page(report_of(tmp_path / "run", made), watched=False))
    assert size < 6_000_000


def test_without_plotly_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ConfigError, match=r"plotly: .*pip install 'megadga\[report\]'"):
        render_page(report_of(tmp_path / "run"), watched=False)
