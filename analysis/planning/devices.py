"""Known accelerators: dense bf16 peaks and memory, and device hours turned into FLOPs.

Peaks and memory are the vendors' data sheets, without sparsity, one GB being 1e9 bytes; the V100
has no bf16 and is quoted in fp16.
C = hours * 3600 * peak * utilisation. The utilisation counts all FLOPs of the device. With
activation checkpointing a quarter of them is recomputation, so .75 of them are the C of the law.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# share of a device's FLOPs that are the model's: forward 1 and backward 2 of 4 parts, of which the
# fourth is the second forward pass
CHECKPOINTED = 0.75


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator: dense FLOP/s of matrix products in bf16, and bytes of memory."""

    peak: float
    memory: float


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "v100": Device(peak=125e12, memory=32e9),
        "a100": Device(peak=312e12, memory=80e9),
        "a100-40gb": Device(peak=312e12, memory=40e9),
        "h100": Device(peak=989e12, memory=80e9),
        "h200": Device(peak=989e12, memory=141e9),
        "b200": Device(peak=2250e12, memory=180e9),
        "l40s": Device(peak=362e12, memory=48e9),
        "mi300x": Device(peak=1307e12, memory=192e9),
    }
)


def device_named(name: str) -> Device:
    """Return a device; an unknown name raises ValueError with the known ones."""
    if name.lower() not in DEVICES:
        raise ValueError(f"device={name} is unknown; known devices are {', '.join(DEVICES)}")
    return DEVICES[name.lower()]


def flops_of_hours(hours: float, *, flops_per_second: float) -> float:
    """Return the training FLOPs that device hours buy at a sustained speed."""
    return hours * 3600 * flops_per_second
