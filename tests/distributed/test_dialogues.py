"""Training on texts and dialogues together under DeepSpeed: the loss, and alignments."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.shards import write_domain, write_sets

TOLERANCE = 1e-6  # relative to |g_i||v|, or to a loss: float32's own error
NORM = 1e-5  # of a whole gradient, relative to itself


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A domain of texts beside two of dialogues, of which one has few trained tokens."""
    root = write_sets(tmp_path_factory.mktemp("sets"), num_domains=1)
    write_domain(root / "mixed" / "d0", seed=0)
    write_domain(root / "mixed" / "talk", seed=1, chat=True)
    write_domain(root / "mixed" / "terse", seed=2, chat=True, trained=0.0)
    return root


@pytest.fixture(scope="module", params=["2", "3-released"], ids=["zero2", "zero3-released"])
def found(
    request: pytest.FixtureRequest, sets: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    worker = "tests.distributed.workers.dialogues"
    output = tmp_path_factory.mktemp("dialogues")
    return run_ranks(worker, 2, output, str(sets), request.param)


def test_a_step_is_on_the_mean_over_all_targets_however_the_batch_is_divided(
    found: dict[str, Any],
) -> None:
    steps = found["steps"]

    assert found["left out"]["terse"] > 0
    assert steps.keys() == {"1", "4"}  # sequences of a micro-batch, of 8 on two ranks
    for step in steps.values():
        assert len(set(step["targets"])) > 2
        errors = step["errors"]
        assert errors.keys() == {"loss", "grad_norm", "d0", "talk", "terse"}
        assert errors.pop("grad_norm") < NORM
        assert max(errors.values()) < TOLERANCE
        counted = {"d0": 0, "talk": 0, "terse": 0}
        for owner, number in zip(step["owners"], step["targets"], strict=True):
            counted[["d0", "talk", "terse"][owner]] += number
        assert step["counted"] == counted


@pytest.mark.parametrize("probe", ["sharded", "directional"])
def test_alignments_of_texts_and_dialogues_equal_float64(
    found: dict[str, Any], probe: str
) -> None:
    measured = found["measured"][probe]

    assert measured["error"] < TOLERANCE
    assert measured["equal"]
    assert 0 < measured["fewest targets"] < 4 * 8


def test_dialogues_are_refused_in_flight_by_name(found: dict[str, Any]) -> None:
    assert found["in flight"] == (
        "in-flight probe: expected domains that are streams, every sequence with S targets, "
        "found 'talk', which is padded or masked; measure with probe type directional"
    )
