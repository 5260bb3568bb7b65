"""Training with probes and without: the same bits."""

from itertools import product
from pathlib import Path

import pytest

from tests.support.probe_cases import FAMILIES
from tests.support.probes import METHODS
from tests.support.ranks import run_ranks


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_leave_no_trace(folder: Path, tmp_path: Path, family: str) -> None:
    results = run_ranks(
        "tests.distributed.workers.no_trace", 2, tmp_path, str(folder), family, timeout_s=550
    )

    assert len(results) == 2 * len(FAMILIES[family]) + 2
    met = {(result["kind"], name) for result in results for name in result["with"]}
    assert met >= set(product(FAMILIES[family], METHODS))
    for result in results:
        plain = result["without"]
        assert plain["updates"] == 0
        assert len(set(plain["losses"])) > 8  # training did move
        for name, probed in result["with"].items():
            assert probed["updates"] == 3, name  # the probes did run
            if result["model"] == "llama-compiled" and name.startswith("in_flight"):
                # What is compiled sees no hooks, so those steps run eagerly: the same operations,
                # perhaps in another order. Rounding that grows with training is all there is.
                assert probed["losses"] == pytest.approx(plain["losses"], rel=1e-4), name
            else:
                assert probed["losses"] == plain["losses"], name
                assert probed["parameters"] == plain["parameters"], name
