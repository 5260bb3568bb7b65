import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[3] / "tools" / "bench_sampler.py"


def test_the_numbers_are_printed_and_written(tmp_path):
    output = tmp_path / "bench" / "sampler.json"
    options = ["--domains", "2", "5", "--batch-size", "4", "--repeats", "3"]
    printed = subprocess.run(
        [sys.executable, TOOL, *options, "--output", output],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    plans = json.loads(output.read_text())["plans"]
    assert [plan["domains"] for plan in plans] == [2, 2, 5, 5]
    assert all(0 < plan["fastest_ms"] <= plan["slowest_ms"] for plan in plans)
    assert len(printed.splitlines()) == 5
