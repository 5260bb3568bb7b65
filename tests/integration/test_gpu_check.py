"""The check for GPUs runs every stage on a CPU, in tiny."""

import json
import sys
from pathlib import Path

from tests.support.jobs import run_job
from tests.support.ranks import REPOSITORY
from tests.support.shards import write_domain


def test_every_stage_of_the_gpu_check_passes_in_tiny_on_a_cpu(tmp_path: Path) -> None:
    for index in range(3):
        write_domain(tmp_path / "shards" / "domains" / f"d{index}", seed=index)
    write_domain(tmp_path / "shards" / "specific" / "target", seed=1)
    (tmp_path / "shards" / "specific" / "tokenizer.model").touch()  # as the kit has

    done = run_job(
        [
            *(sys.executable, str(REPOSITORY / "tools" / "gpu_check.py")),
            *("--out", str(tmp_path / "out"), "--shards", str(tmp_path / "shards")),
            *("--device", "cpu", "--quick", "--budget-s", "540"),
        ],
        tmp_path,
        timeout_s=560,
    )

    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    stages = record["stages"]
    assert {name: stage["error"] for name, stage in stages.items()} == dict.fromkeys(stages)
    assert done.code == 0, done.text
    checks = {row["check"] for stage in stages.values() for row in stage["rows"]}
    assert checks == {
        *("versions", "device", "nccl", "matmul", "step", "exactness", "two ranks", "no trace"),
        *("inner products", "resuming", "speed", "probe", "constants", "profile", "memory"),
        "training",
    }
    rows = [row for stage in stages.values() for row in stage["rows"]]
    assert not [row for row in rows if row["check"] == "speed" and "error" in row]
    exact = {each["what"]: each["met"] for each in record["expected"]}
    assert exact["error of inner products, of the sum of |l r|"]
    assert exact["error in fp32, of |g||v|"]
    assert exact["error in bf16, of |g||v|"]
    assert exact["no trace: losses and parameters equal to the bit"]
    assert exact["resumed: losses, weights and evaluations equal to the bit"]
