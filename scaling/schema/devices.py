"""Known accelerators: dense bf16 peak of matrix products and memory, each with its source.

Peaks are those of the vendors' data sheets without sparsity (data sheets of NVIDIA since 2020 print
twice as much), products in bf16 summed in fp32. One GB of memory is 1e9 bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator.

    peak: dense FLOP/s of matrix products in bf16 (of the V100, which has no bf16, in fp16)
    memory: bytes
    source: where both are printed
    label: what its driver calls it, as a word of torch's name of the device; empty for no GPU
    """

    peak: float
    memory: float
    source: str
    label: str = ""


def _gpu(label: str, peak: float, memory: float, source: str) -> Device:
    return Device(peak=peak * 1e12, memory=memory * 1e9, source=source, label=label)


NVIDIA = "NVIDIA's data sheet"
DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "v100": _gpu("V100", 125, 32, f"{NVIDIA} of the V100 SXM2, fp16"),
        "a10": _gpu("A10", 125, 24, f"{NVIDIA} of the A10"),
        "a10g": _gpu("A10G", 70, 24, f"{NVIDIA} of the A10G, 140 with sparsity"),
        "a100": _gpu("A100", 312, 80, f"{NVIDIA} of the A100"),
        "a100-40gb": _gpu("A100-SXM4-40GB", 312, 40, f"{NVIDIA} of the A100"),
        "l40s": _gpu("L40S", 362, 48, f"{NVIDIA} of the L40S, 733 with sparsity"),
        "h100": _gpu("H100", 989, 80, f"{NVIDIA} of the H100 SXM, 1979 with sparsity"),
        "h100-pcie": _gpu("H100 PCIe", 756, 80, f"{NVIDIA} of the H100 PCIe, 1513 with sparsity"),
        "h100-nvl": _gpu("H100 NVL", 835, 94, f"{NVIDIA} of the H100 NVL, 1671 with sparsity"),
        "h200": _gpu("H200", 989, 141, f"{NVIDIA} of the H200 SXM, 1979 with sparsity"),
        "h200-nvl": _gpu("H200 NVL", 835, 141, f"{NVIDIA} of the H200 NVL, 1671 with sparsity"),
        "gh200": _gpu("GH200", 989, 96, f"{NVIDIA} of the GH200 with 96 GB"),
        "b200": _gpu(
            "B200", 2250, 180, f"{NVIDIA} of the DGX B200, an eighth of 36 PFLOP/s sparse"
        ),
        "gb200": _gpu(
            "GB200", 2500, 186, f"{NVIDIA} of the GB200 NVL72, a 72nd of 360 PFLOP/s sparse"
        ),
        "rtx4090": _gpu("RTX 4090", 165.2, 24, "NVIDIA's Ada architecture paper, fp32 sums"),
        "rtx5090": _gpu("RTX 5090", 209.5, 32, "NVIDIA's RTX Blackwell paper, fp32 sums"),
        "mi300x": _gpu("MI300X", 1307.4, 192, "AMD's data sheet of the Instinct MI300X"),
        "mi355x": _gpu("MI355X", 2516.6, 288, "AMD's data sheet of the Instinct MI355X"),
        "tpu-v5p": _gpu("", 459, 95, "Google Cloud's documentation of TPU v5p"),
        "tpu-v6e": _gpu("", 918, 32, "Google Cloud's documentation of TPU v6e"),
    }
)


def device_named(name: str) -> Device:
    """Return a device; an unknown name raises ValueError with the known ones."""
    if name.lower() not in DEVICES:
        raise ValueError(f"device={name} is unknown; known devices are {', '.join(DEVICES)}")
    return DEVICES[name.lower()]


def device_of_label(name: str) -> Device | None:
    """Return the device that a driver's name names (`NVIDIA H100 80GB HBM3`), None for others."""
    matching = [d for d in DEVICES.values() if d.label and re.search(rf"\b{d.label}\b", name)]
    return max(matching, key=lambda d: len(d.label), default=None)
