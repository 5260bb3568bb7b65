"""What `megadga plan` predicts of memory and communication, against DeepSpeed's ranks."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tools.plan_bench.case import to_json
from tools.plan_bench.cases import PARTITIONED, REPLICATED

RESIDENT, PEAK, SENT = 0.01, 0.1, 0.01
"""Relative deviations: of what is told exactly but for padding; of what torch needs in between,
which small tensors are the more of; of what is padded and aligned."""


@pytest.fixture(scope="module", params=["replicated", "partitioned"])
def rows(request: pytest.FixtureRequest, tmp_path_factory: Any) -> list[dict[str, Any]]:
    cases = REPLICATED if request.param == "replicated" else PARTITIONED
    folder: Path = tmp_path_factory.mktemp("planned")
    found = run_ranks("tools.plan_bench.worker", 2, folder, to_json(cases))
    assert len(found) == len(cases)
    return found


def test_parameters_are_counted_exactly(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        counted, predicted = row["parameters"]
        assert predicted == counted, row["case"]


def test_what_a_rank_holds_between_steps_is_as_predicted(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        counted, predicted = row["resident_bytes"]
        assert predicted == pytest.approx(counted, rel=RESIDENT), row["case"]


def test_the_most_that_a_step_holds_is_as_predicted(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        counted, predicted = row["peak_bytes"]
        assert predicted == pytest.approx(counted, rel=PEAK), row["case"]


def test_collectives_carry_what_is_predicted(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        counted, predicted = row["sent_bytes"]
        assert set(predicted) == set(counted), row["case"]
        for operation, payload in counted.items():
            assert predicted[operation] == pytest.approx(payload, rel=SENT), row["case"]
