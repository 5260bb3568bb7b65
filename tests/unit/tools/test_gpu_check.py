"""How a check for GPUs is supervised, judged and reported, without any device."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpu_checks.expected import verdicts
from gpu_checks.plan import STAGES, Stage, first_group
from gpu_checks.report import document
from gpu_checks.setting import Setting
from gpu_checks.supervising import Record, Supervisor
from tests.support.ranks import REPOSITORY

WORKER = """\
import json, os, sys, time
_, setting, events, backend, *limits = sys.argv
def write(**event):
    with open(events, "a") as file:
        file.write(json.dumps(event) + "\\n")
for name in (limit.split("=")[0] for limit in limits):
    if name == "refused" and backend != "gloo":
        sys.exit(3)
    write(event="begin", stage=name)
    if name == "buffers":
        buffer = f"/dev/shm/deepspeed_allreduce_buffer_0_test_{os.environ['MASTER_PORT']}_0"
        open(buffer, "w").close()
        write(event="row", stage=name, row={"check": "nothing", "buffer": buffer})
    write(event="row", stage=name, row={"check": "nothing", "of": name, "backend": backend})
    if name == "hangs":
        time.sleep(60)
    if name == "crashes":
        print("out of memory"); sys.exit(7)
    write(event="end", stage=name, error=None)
"""


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    (tmp_path / "scratch").mkdir()
    return Setting("cuda", True, tmp_path, tmp_path, tmp_path / "scratch")


def supervised(setting: Setting, *stages: Stage, budget_s: float = 30.0) -> dict[str, Any]:
    record = Record(setting.output / "gpu.json", {"device": "none"})
    worker = setting.scratch / "worker.py"
    worker.write_text(WORKER)
    supervisor = Supervisor(
        setting,
        record,
        log=setting.output / "gpu.log",
        ends_at=time.monotonic() + budget_s,
        report=lambda line: None,
        worker=(sys.executable, str(worker)),
    )
    supervisor.run(stages)
    return json.loads(record.path.read_text())["stages"]


def test_stages_after_one_that_is_cut_off_still_run(setting: Setting) -> None:
    hangs, well = Stage("hangs", "", 0.5), Stage("well", "", 20)

    found = supervised(setting, hangs, well)

    assert found["hangs"]["status"] == "cut off"
    assert [row["of"] for row in found["hangs"]["rows"]] == ["hangs"]  # what it had measured
    assert found["well"]["status"] == "passed"


def test_stages_after_one_that_crashes_still_run(setting: Setting) -> None:
    found = supervised(setting, Stage("crashes", "", 20), Stage("well", "", 20))

    assert found["crashes"]["status"] == "failed"
    assert "out of memory" in found["crashes"]["error"]
    assert found["well"]["status"] == "passed"


def test_what_the_budget_has_no_time_for_is_not_started(setting: Setting) -> None:
    hangs, never = Stage("hangs", "", 60), Stage("never", "", 20)

    found = supervised(setting, hangs, never, budget_s=1.0)

    assert found["hangs"]["status"] == "cut off"
    assert found["never"] == {"rows": [], "shows": "", "status": "not started", "error": None}


def test_ranks_that_nccl_refuses_meet_over_gloo(setting: Setting) -> None:
    found = supervised(setting, Stage("refused", "", 20, ranks=2))

    assert found["refused"]["status"] == "passed"
    assert {row["backend"] for row in found["refused"]["rows"]} == {"gloo"}


def test_shared_memory_that_deepspeed_leaves_behind_is_removed(setting: Setting) -> None:
    found = supervised(setting, Stage("buffers", "", 20))

    (buffer,) = [row["buffer"] for row in found["buffers"]["rows"] if "buffer" in row]
    assert not Path(buffer).exists()


def test_stages_of_one_number_of_ranks_share_processes_until_one_ends_them() -> None:
    groups: list[tuple[str, ...]] = []
    left = STAGES
    while left:
        group = first_group(left)
        groups.append(tuple(stage.name for stage in group))
        left = left[len(group) :]

    assert groups == [
        ("environment", "exactness"),
        ("two_ranks",),
        ("no_trace",),
        ("resuming",),
        ("constants", "speed", "profiling", "training"),
    ]


def test_an_expectation_is_judged_by_its_worst_measurement() -> None:
    row = {"check": "exactness", "precision": "fp32"}

    found = verdicts([{**row, "error": 1e-8}, {**row, "error": 2e-5}])

    by_name = {verdict["what"]: verdict for verdict in found}
    assert by_name["error in fp32, of |g||v|"] == {
        "what": "error in fp32, of |g||v|",
        "relation": "at most",
        "limit": 1e-5,
        "found": 2e-5,
        "met": False,
    }
    assert by_name["error in bf16, of |g||v|"]["met"] is None  # nothing was measured


def test_without_records_the_page_says_that_nothing_was_measured() -> None:
    assert "Nothing has been measured on a GPU yet" in document({})


def test_the_page_has_every_row_misses_and_failures_of_a_record() -> None:
    rows = [
        {"check": "device", "name": "Some GPU"},
        {"check": "exactness", "ranks": 1, "stage": 2, "precision": "fp32", "error": 2e-5},
        {"check": "speed", "model": "1b", "sequence_length": 2048, "error": "Traceback ..."},
    ]
    stage = {"status": "failed", "seconds": 3.0, "error": "ValueError: no", "rows": rows}
    record = {
        "commit": "abc",
        "date": "2030-01-01",
        "command": "gpu_check.py",
        "expected": verdicts(rows),
        "stages": {"exactness": stage},
    }

    page = document({"h100": record})

    assert "- device name: Some GPU" in page
    assert "| error in fp32, of \\|g\\|\\|v\\| | at most 1e-05 | 2e-05 | **missed** |" in page
    assert "| exactness | failed | 3 | ValueError: no |" in page
    assert "1b, 2,048: failed" in page


def test_the_page_in_the_repository_is_that_of_its_records() -> None:
    records = sorted((REPOSITORY / "docs" / "gpu").glob("*.json"))
    page = document({path.stem: json.loads(path.read_text()) for path in records})

    assert (REPOSITORY / "docs" / "gpu.md").read_text() == page
