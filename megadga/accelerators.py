"""What accelerators can do at most, by their vendors' data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass

_GBIT = 1e9 / 8  # bytes
_MIB = 2**20


@dataclass(frozen=True)
class Accelerator:
    """A device's published limits. What is reached of them is measured elsewhere.

    Attributes:
        name: As options and tables call it.
        parts: Words that are all in the name that torch reports for it, in lower case.
        peak_flops: Dense bf16 matrix products, FLOP/s, without sparsity.
        memory_bytes: Its memory, as the driver reports it.
        memory_bandwidth: Bytes per second.
        node_bandwidth: Bytes per second in each direction between this device and the others of
            its node: half of what data sheets give for NVLink, which counts both.
        network_bandwidth: Bytes per second in each direction between nodes, per device: that of
            the vendor's reference node.
        devices_per_node: Of that reference node.
        source: Where the numbers are from.
    """

    name: str
    parts: tuple[str, ...]
    peak_flops: float
    memory_bytes: int
    memory_bandwidth: float
    node_bandwidth: float
    network_bandwidth: float
    devices_per_node: int
    source: str


_ALL = (
    Accelerator(
        name="a100-40gb",
        parts=("a100", "40gb"),
        peak_flops=312e12,
        memory_bytes=40_960 * _MIB,
        memory_bandwidth=1555e9,
        node_bandwidth=300e9,
        network_bandwidth=200 * _GBIT,
        devices_per_node=8,
        source="NVIDIA A100 data sheet (2021), SXM; DGX A100 with HDR InfiniBand",
    ),
    Accelerator(
        name="a100",
        parts=("a100",),
        peak_flops=312e12,
        memory_bytes=81_920 * _MIB,
        memory_bandwidth=2039e9,
        node_bandwidth=300e9,
        network_bandwidth=200 * _GBIT,
        devices_per_node=8,
        source="NVIDIA A100 data sheet (2021), 80 GB SXM; DGX A100 with HDR InfiniBand",
    ),
    Accelerator(
        name="h100-pcie",
        parts=("h100", "pcie"),
        peak_flops=756.5e12,
        memory_bytes=81_559 * _MIB,
        memory_bandwidth=2000e9,
        node_bandwidth=64e9,
        network_bandwidth=400 * _GBIT,
        devices_per_node=8,
        source="NVIDIA H100 data sheet (2023), PCIe 5.0 without bridges",
    ),
    Accelerator(
        name="h100",
        parts=("h100",),
        peak_flops=989.4e12,
        memory_bytes=81_559 * _MIB,
        memory_bandwidth=3350e9,
        node_bandwidth=450e9,
        network_bandwidth=400 * _GBIT,
        devices_per_node=8,
        source="NVIDIA H100 data sheet (2023), SXM; DGX H100 with NDR InfiniBand",
    ),
    Accelerator(
        name="h200",
        parts=("h200",),
        peak_flops=989.4e12,
        memory_bytes=143_771 * _MIB,
        memory_bandwidth=4800e9,
        node_bandwidth=450e9,
        network_bandwidth=400 * _GBIT,
        devices_per_node=8,
        source="NVIDIA H200 data sheet (2024), SXM; DGX H200 with NDR InfiniBand",
    ),
    Accelerator(
        name="b200",
        parts=("b200",),
        peak_flops=2250e12,
        memory_bytes=183_359 * _MIB,
        memory_bandwidth=7700e9,
        node_bandwidth=900e9,
        network_bandwidth=400 * _GBIT,
        devices_per_node=8,
        source="NVIDIA DGX B200 data sheet (2024): an eighth of the node's",
    ),
    Accelerator(
        name="l40s",
        parts=("l40s",),
        peak_flops=362e12,
        memory_bytes=46_068 * _MIB,
        memory_bandwidth=864e9,
        node_bandwidth=32e9,
        network_bandwidth=100 * _GBIT,
        devices_per_node=8,
        source="NVIDIA L40S data sheet (2023), PCIe 4.0; network: two 400 Gbit/s cards a node",
    ),
    Accelerator(
        name="mi300x",
        parts=("mi300x",),
        peak_flops=1307.4e12,
        memory_bytes=196_608 * _MIB,
        memory_bandwidth=5300e9,
        node_bandwidth=448e9,
        network_bandwidth=400 * _GBIT,
        devices_per_node=8,
        source="AMD Instinct MI300X data sheet (2023): 7 Infinity Fabric links of 64 GB/s",
    ),
)

ACCELERATORS: Mapping[str, Accelerator] = {each.name: each for each in _ALL}
"""By name."""


def find_accelerator(device_name: str) -> Accelerator | None:
    """Return the accelerator that a device's name is of; None: it is not in the table.

    Args:
        device_name: As ``torch.cuda.get_device_name`` reports it, e.g. ``NVIDIA H100 80GB HBM3``.
    """
    named = device_name.lower()
    return next((each for each in _ALL if all(part in named for part in each.parts)), None)


_OTHER_PEAKS: tuple[tuple[str, float], ...] = (
    # NVIDIA's data sheets, "BF16 Tensor Core" without sparsity (half of what they print with it),
    # accumulated in float32.
    ("gb200", 2.5e15),
    ("gh200", 989.4e12),
    ("h200 nvl", 835.5e12),
    ("h100 nvl", 835.5e12),
    ("a30", 165e12),
    ("a40", 149.7e12),
    ("a10g", 70e12),
    ("a10", 125e12),
    ("l40", 181e12),
    ("l4", 121e12),
    ("rtx 5090", 209.5e12),
    ("rtx 4090", 165.2e12),
    ("rtx 3090", 71e12),
    ("rtx a6000", 154.8e12),
    # It has no bfloat16: float16, of the SXM2 form.
    ("v100", 125e12),
    # AMD's data sheets. An MI250X is two devices, of which each has half of its peak.
    ("mi325x", 1307.4e12),
    ("mi250x", 191.5e12),
)
"""Of devices and variants that the table lacks: words of their names, dense bf16 FLOP/s."""


def peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 operations per second of a device; None if they are not known.

    Args:
        device_name: As ``torch.cuda.get_device_name`` reports it.
    """
    words = f" {device_name.lower().replace('-', ' ')} "
    for name, peak in _OTHER_PEAKS:
        if f" {name} " in words:
            return peak
    accelerator = find_accelerator(device_name)
    return None if accelerator is None else accelerator.peak_flops
