"""The sharded probe under real DeepSpeed: exact, equal on all ranks, and without a trace."""

from pathlib import Path

import pytest

from tests.support.ranks import run_ranks
from tests.support.shards import write_sets

# DeepSpeed patches F.linear for ZeRO-3 for the rest of the process, so stage 3 runs apart.
KINDS = ["0,1,2,2-offload", "3,3-offload"]

# Relative to |g_i||v|: float32's own error, and bfloat16's over a forward and backward pass.
TOLERANCE = {"fp32": 1e-6, "bf16": 5e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"), num_domains=3)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_alignments_equal_float64_gradients(
    folder: Path, tmp_path: Path, world_size: int, kinds: str
) -> None:
    report = run_ranks(
        "tests.distributed.workers.exactness", world_size, tmp_path, str(folder), kinds
    )

    assert len(report["results"]) == 3 * len(kinds.split(","))
    for result in report["results"]:
        assert result["error"] < TOLERANCE[result["precision"]], result
    assert all(of_rank == report["results"] for of_rank in report["by_rank"])


@pytest.mark.parametrize("kinds", KINDS)
def test_probes_leave_no_trace(folder: Path, tmp_path: Path, kinds: str) -> None:
    results = run_ranks("tests.distributed.workers.no_trace", 2, tmp_path, str(folder), kinds)

    assert len(results) == 2 * len(kinds.split(","))
    for result in results:
        assert result["without"]["updates"] == 0
        assert len(set(result["without"]["losses"])) > 20  # training did move
        for name, probed in result["with"].items():
            assert probed["updates"] == 6, name  # the probes did run
            assert probed["losses"] == result["without"]["losses"], name
            assert probed["parameters"] == result["without"]["parameters"], name


def test_untested_engine_settings_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    messages = run_ranks("tests.distributed.workers.refusals", 1, tmp_path, str(folder))

    assert messages.pop("nothing") == ""
    assert len(messages) == 5
    for setting, message in messages.items():
        assert setting in message
        assert "expected" in message
