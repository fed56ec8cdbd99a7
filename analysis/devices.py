"""Known accelerators: dense bf16 peaks, and a budget of device hours turned into FLOPs.

Peaks are the vendors' data sheets, without sparsity; the V100 has no bf16 and is quoted in fp16.
C = hours * 3600 * peak * utilisation, where utilisation counts model FLOPs alone.
"""

from collections.abc import Mapping
from types import MappingProxyType

PEAKS: Mapping[str, float] = MappingProxyType(
    {
        "v100": 125e12,
        "a100": 312e12,
        "h100": 989e12,
        "h200": 989e12,
        "b200": 2250e12,
        "l40s": 362e12,
        "mi300x": 1307e12,
    }
)


def peak_flops(device: str) -> float:
    """Return a device's dense bf16 FLOP/s; an unknown name raises ValueError."""
    if device.lower() not in PEAKS:
        raise ValueError(f"device={device} is unknown; known devices are {', '.join(PEAKS)}")
    return PEAKS[device.lower()]


def flops_of_hours(hours: float, *, flops_per_second: float) -> float:
    """Return the training FLOPs that device hours buy at a sustained speed."""
    return hours * 3600 * flops_per_second
