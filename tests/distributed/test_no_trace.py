"""Training with probes and without: the same bits."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.probe_cases import FAMILIES
from tests.support.probes import METHODS
from tests.support.ranks import run_ranks

WORKER = "tests.distributed.workers.no_trace"


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_leave_no_trace(folder: Path, tmp_path: Path, family: str) -> None:
    results = run_ranks(WORKER, 2, tmp_path, str(folder), family, timeout_s=550)

    assert len(results) == 2 * len(FAMILIES[family]) + 1
    met = {(result["kind"], name) for result in results for name in result["with"]}
    assert met >= set(product(FAMILIES[family], METHODS))
    for result in results:
        assert_trained(result)
        plain = result["without"]
        for name, probed in result["with"].items():
            assert probed["losses"] == plain["losses"], name
            assert probed["parameters"] == plain["parameters"], name


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_leave_no_trace_in_a_compiled_model(
    folder: Path, tmp_path: Path, family: str
) -> None:
    model, functions = run_ranks(WORKER, 1, tmp_path, str(folder), family)

    for result in (model, functions):
        assert_trained(result)
        assert list(result["with"]) == ["directional", "in_flight"]
        plain, probed = result["without"], result["with"]["directional"]
        assert probed["losses"] == plain["losses"]
        assert probed["parameters"] == plain["parameters"]
    # Modules that are compiled see no hooks, so those steps run eagerly: the same operations,
    # perhaps in another order. Rounding that grows with training is all there is.
    plain, in_flight = model["without"], model["with"]["in_flight"]
    assert in_flight["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    plain, in_flight = functions["without"], functions["with"]["in_flight"]
    assert in_flight["losses"] == plain["losses"]
    assert in_flight["parameters"] == plain["parameters"]


def assert_trained(result: dict[str, Any]) -> None:
    """Check that training did move, and that the probes did run."""
    assert result["without"]["updates"] == 0
    assert len(set(result["without"]["losses"])) > 8
    for name, probed in result["with"].items():
        assert probed["updates"] == 3, name
