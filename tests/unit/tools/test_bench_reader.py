import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[3] / "tools" / "bench_reader.py"


def test_the_numbers_are_printed_and_written(tmp_path):
    output = tmp_path / "bench" / "reader.json"
    sizes = {"domains": 2, "tokens": 20_000, "sequences": 1024, "repeats": 3, "samples": 2000}
    sizes |= {"shards": 20, "grouped": 64}
    options = [text for key, size in sizes.items() for text in (f"--{key}", str(size))]
    printed = subprocess.run(
        [sys.executable, TOOL, *options, "--output", output],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    found = json.loads(output.read_text())
    assert [row["batch_size"] for row in found["steady_state"]] == [256, 1024]
    assert all(row["ours_per_s"] > 0 < row["theirs_per_s"] for row in found["steady_state"])
    (start,) = found["start"]
    assert (start["samples"], start["ours_files"]) == (2000, 0)
    assert start["theirs_files"] > 0
    assert [row["layout"] for row in found["opening"]] == [
        "1 x 20 shards",
        "10 x 2 shards",
        "64 domains in one shard",
    ]
    assert len(printed.splitlines()) == (1 + 2 + 1) + (1 + 1 + 1) + (1 + 3 + 1)
