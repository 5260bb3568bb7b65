"""Training in turns with a plain loop, and what the seconds of both say."""

import argparse
import json
from pathlib import Path

import pytest

from tests.support.jobs import run_tool
from tools.train_bench.case import Case, Workload, parse_workload
from tools.train_bench.turns import Memory, Turn, order_of_round, row_of

CASE = Case(
    workload=Workload("tiny", 128, "fp32"),
    ranks=2, stage=1, micro_batch=4, vocabulary_size=64, folder=Path("unused"),
)  # fmt: skip


def test_sides_take_turns_and_odd_rounds_go_backwards():
    assert order_of_round(0) == ("megadga", "transformers")
    assert order_of_round(1) == ("transformers", "megadga")


def test_a_ratio_is_the_median_over_rounds_of_the_slowest_ranks_seconds():
    def turns(*seconds: float) -> list[list[Turn]]:
        return [[Turn(2, each, each / 4), Turn(2, each / 2, each / 4)] for each in seconds]

    row = row_of(
        CASE,
        {"megadga": turns(2.0, 4.0, 1.0), "transformers": turns(4.0, 4.0, 4.0)},
        {"megadga": [Memory(10, 30), Memory(10, 20)], "transformers": [Memory(10, 50)] * 2},
    )

    assert row["speed"].rounds == [2.0, 1.0, 4.0]
    assert (row["speed"].lower, row["speed"].median, row["speed"].upper) == (1.5, 2.0, 3.0)
    assert row["speed_by_cpu_time"].median == 2.0
    assert row["megadga"]["tokens_per_s"] == 2 * 4 * 128 / (2.0 / 2)
    assert (row["peak_memory"], row["added_memory"]) == (30 / 50, 20 / 40)


@pytest.mark.parametrize("text", ["tiny:128", "huge:128:fp32", "tiny:1:fp32", "tiny:128:fp16"])
def test_what_is_no_workload_is_refused(text):
    assert str(parse_workload("8m:256:bf16")) == "8m:256:bf16"
    with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'"):
        parse_workload(text)


def test_both_train_within_the_minutes_and_the_numbers_are_printed_and_written(tmp_path):
    output = tmp_path / "bench" / "train.json"
    options = ("--quick", "--stages", "0", "1", "--minutes", "0", "--output", output)

    done = run_tool("bench_train", tmp_path, *options)

    assert done.code == 0, done.text
    record = json.loads(output.read_text())
    (row,) = record["rows"]
    assert len(row["speed"]["rounds"]) == 2
    for side in ("megadga", "transformers"):
        assert row[side]["tokens_per_s"] > 0.0
        assert row[side]["peak_bytes"] > row[side]["added_bytes"] > 0
    assert "speed of at least 1 in every case" in done.text
    # The first case is always measured; the next one would begin after the time is over.
    assert record["left_out"] == ["nano:16:fp32, ranks 1, ZeRO-1"]
    assert "left out, as --minutes are over: nano:16:fp32, ranks 1, ZeRO-1" in done.text
