import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[3] / "tools" / "bench_overhead.py"
SIZES = {
    "domains": 3,
    "interval": 2,
    "batch": 4,
    "sequence-length": 8,
    "share": 0.9,
    "rounds": 1,
    "ranks": 1,
}


def test_runs_take_turns_and_their_overheads_are_printed_and_written(tmp_path):
    output = tmp_path / "bench" / "overhead.json"
    options = [text for key, size in SIZES.items() for text in (f"--{key}", str(size))]

    done = subprocess.run(
        [sys.executable, TOOL, *options, "--output", output],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    ways = ["directional", "directional_low_rank", "in_flight_low_rank", "every_step"]
    assert list(found["overheads"]) == ways
    order = [segment["name"] for segment in found["segments"][0]]
    assert order == ["plain", *(name for way in ways for name in (way, "plain"))]
    # 0.9 * 2 * 4 = 7.2 sequences per update: 3 of the domains, and 4 specific ones or twice 2.
    predicted = [found["overheads"][way]["predicted"] for way in ways]
    assert predicted[:2] == pytest.approx([7 / 8, 7 / 8])
    # Every second step; in flight that takes longer, but no longer than a whole direction does.
    assert 7 / 8 < predicted[2] < 7 / 8 + 0.35 / 2
    assert all(found["overheads"][way]["observed"] > 0.0 for way in ways)
    assert all(way in done.stdout for way in ways)
    assert all(found["overheads"][way]["processor"]["median"] > 0.0 for way in ways)
    # Losses and the wish to stop travel together.
    assert found["collectives_per_step"]["plain"] == 1.0
    assert "plain: 1.00 collectives per step" in done.stdout
