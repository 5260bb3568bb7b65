"""Constants of a prediction: assumed, measured and fitted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megadga.accelerators import ACCELERATORS
from megadga.errors import ConfigError
from megadga.planning import compute
from megadga.planning.constants import assumed_constants, read_measured, write_measured
from megadga.planning.fitting import TimedPass, fit_constants
from tests.unit.planning.test_memory import BF16, DECODER

TRUE = {
    "matmul_flops": 2e12,
    "attention_flops": 5e11,
    "memory_bandwidth": 3e10,
    "seconds_per_operation": 2e-5,
}


def test_what_is_assumed_is_less_than_what_data_sheets_promise() -> None:
    for accelerator in ACCELERATORS.values():
        constants = assumed_constants(accelerator)
        assert 0 < constants.matmul_flops.value < accelerator.peak_flops
        assert 0 < constants.memory_bandwidth.value < accelerator.memory_bandwidth
        assert 0 < constants.node_bandwidth.value < accelerator.node_bandwidth
        assert constants.matmul_flops.origin == "assumed"


def test_measured_constants_replace_those_that_they_name(tmp_path: Path) -> None:
    path = tmp_path / "constants.json"
    write_measured(path, "NVIDIA H100", {"matmul_flops": 5e14})
    found = read_measured(path)
    assumed = assumed_constants(ACCELERATORS["h100"])

    constants = assumed.with_values(found.values, "measured")

    assert found.device == "NVIDIA H100"
    assert constants.matmul_flops.value == 5e14
    assert constants.matmul_flops.origin == "measured"
    assert constants.attention_flops == assumed.attention_flops


def test_the_gpu_kits_record_has_them_as_well(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    row = {"check": "constants", "device": "NVIDIA H200", "matmul_flops": 6e14}
    path.write_text(json.dumps({"stages": {"constants": {"rows": [row]}}}))

    found = read_measured(path)

    assert (found.device, found.values) == ("NVIDIA H200", {"matmul_flops": 6e14})


def test_a_record_of_a_check_that_was_cut_off_before_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"stages": {"speed": {"rows": [{"check": "speed"}]}}}))

    with pytest.raises(ConfigError, match="expected the keys device and measured"):
        read_measured(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a file by `megadga calibrate`"),
        ("[]", "expected the keys device and measured"),
        (json.dumps({"device": "x", "measured": {"speed": 1}}), "measured: expected matmul_flops"),
        (
            json.dumps({"device": "x", "measured": {"matmul_flops": -1}}),
            "measured.matmul_flops: expected a number above 0, found -1",
        ),
        (
            json.dumps({"device": "x", "measured": {"matmul_flops": True}}),
            "measured.matmul_flops: expected a number above 0, found True",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "constants.json"
    path.write_text(text)

    with pytest.raises(ConfigError, match=message):
        read_measured(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: expected a file by `megadga calibrate`"):
        read_measured(tmp_path / "none.json")


def passes() -> list[TimedPass]:
    constants = assumed_constants(ACCELERATORS["h100"]).with_values(TRUE, "given")
    found: list[TimedPass] = []
    for width, length in ((16, 8), (64, 64), (256, 256), (1024, 64), (64, 4096), (2048, 512)):
        heads = max(1, width // 64)
        decoder = replace(
            DECODER,
            hidden_size=width,
            num_heads=heads,
            kv_width=width,
            intermediate_size=3 * width,
        )
        workload = replace(BF16, decoder=decoder, sequence_length=length)
        kernels = (*compute.forward_kernels(workload), *compute.backward_kernels(workload))
        found.append(TimedPass(workload, compute.seconds(kernels, constants)))
    return found


def test_constants_that_made_the_passes_are_found_again() -> None:
    alone = {name: 2.0 * value for name, value in TRUE.items()}

    fitted = fit_constants(passes(), alone)

    assert fitted == pytest.approx(TRUE, rel=0.1)


def test_what_passes_do_not_tell_stays_as_it_was_measured_alone() -> None:
    slow = passes()[:1]  # next to nothing but starts of operations

    fitted = fit_constants(slow, TRUE)

    assert fitted == pytest.approx(TRUE, rel=0.05)
