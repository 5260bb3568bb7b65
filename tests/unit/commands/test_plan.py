"""`megadga plan`, as it is called."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megadga.cli import main
from tests.support.jobs import alone, run_job
from tests.support.ranks import REPOSITORY, rank_environment

SCALE = REPOSITORY / "configs" / "scale"
OPTIONS = ["--devices", "64", "--accelerator", "h100", "--domains", "64"]


def plan(*more: str) -> int:
    return main(["plan", str(SCALE / "7b.yaml"), *OPTIONS, *more])


def test_it_says_what_a_run_takes_and_what_that_rests_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan() == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == [
        "model",
        "6.74 billion parameters, 32 layers of 4,096",
    ]
    assert any(line.startswith("memory") and line.endswith("usable: fits") for line in lines)
    assert ["matmul_flops", "6.53e+14", "assumed"] in [line.split() for line in lines]


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--json") == 0

    record = json.loads(capsys.readouterr().out)
    assert (record["accelerator"], record["devices"], record["zero_stage"]) == ("h100", 64, 3)
    assert record["fits"]
    assert record["memory"]["peak_bytes"] == max(record["memory"]["moments"].values())
    seconds = record["step_s"]
    hidden = seconds["communication"]
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"] - hidden)
    assert record["largest_micro_batch"] == 16


def test_a_comparison_has_a_line_for_each_stage_with_and_without_checkpointing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan("--compare", "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 8
    assert plan("--compare") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[0].split()[:2] == ["ZeRO", "checkpointing"]
    assert [line.split()[0] for line in lines[1:]] == list("00112233")


def test_options_and_measured_constants_replace_what_is_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "constants.json"
    path.write_text(json.dumps({"device": "NVIDIA H100", "measured": {"matmul_flops": 1e14}}))

    constants = ["--constants", str(path)]
    assert plan("--json", *constants, "--interconnect", "100", "--storage", "2") == 0

    found = json.loads(capsys.readouterr().out)["constants"]
    assert found["matmul_flops"] == {"value": 1e14, "origin": "measured"}
    assert found["network_bandwidth"] == {"value": 0.8 * 12.5e9, "origin": "given"}
    assert found["storage_bandwidth"] == {"value": 2e9, "origin": "given"}
    assert found["attention_flops"]["origin"] == "assumed"


@pytest.mark.parametrize(
    "options",
    [["--devices", "0"], ["--interconnect", "inf"], ["--accelerator", "abacus"]],
    ids=lambda options: options[0],
)
def test_numbers_and_names_that_are_none_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        plan(*options)


def test_it_starts_without_torch() -> None:
    code = (
        "import sys; from megadga.cli import main; "
        f"main(['plan', {str(SCALE / '7b.yaml')!r}, *{OPTIONS!r}]); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=rank_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_calibration_writes_what_plan_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "constants.json"
    done = run_job(alone("megadga.cli", "calibrate", str(path)), tmp_path)
    assert done.code == 0, done.text

    assert plan("--json", "--constants", str(path)) == 0

    found = json.loads(capsys.readouterr().out)["constants"]
    measured = {name for name, each in found.items() if each["origin"] == "measured"}
    assert measured == {
        "matmul_flops",
        "attention_flops",
        "memory_bandwidth",
        "seconds_per_operation",
    }


def test_calibration_needs_a_folder_for_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "none/constants.json"]) == 2
    assert "expected a file in an existing folder" in capsys.readouterr().err
