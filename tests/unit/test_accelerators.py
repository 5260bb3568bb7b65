"""Published limits of accelerators."""

import pytest

from megadga.accelerators import ACCELERATORS, find_accelerator, peak_flops


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_an_accelerator_is_found_by_the_name_that_torch_reports(reported: str, name: str) -> None:
    found = find_accelerator(reported)

    assert found is not None
    assert found.name == name


def test_an_unknown_device_is_none_of_them() -> None:
    assert find_accelerator("Tesla V100-SXM2-16GB") is None


def test_every_number_is_in_the_units_that_it_should_be_in() -> None:
    for each in ACCELERATORS.values():
        assert 1e14 < each.peak_flops < 1e16
        assert 2**35 < each.memory_bytes < 2**38
        assert 5e11 < each.memory_bandwidth < 1e13
        assert each.network_bandwidth < each.memory_bandwidth


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla V100-SXM2-32GB", 125e12),
        ("AMD Instinct MI300X", 1307.4e12),
        ("AMD Instinct MI250X / MI250", 191.5e12),
        ("Quadro P400", None),
    ],
)
def test_the_peak_of_an_accelerator_is_found_by_its_name(name, peak):
    assert peak_flops(name) == peak
