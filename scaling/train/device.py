"""The device that trains: its choice, name, peak speed and memory."""

import contextlib
import functools
import logging
import os
import platform
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.utils.deterministic
from torch import Tensor

from scaling.config import CellConfig, MachineConfig
from scaling.schema import device_of_label
from scaling.train.memory_check import check_room, host_bytes

log = logging.getLogger(__name__)


def pick_device(config: MachineConfig) -> torch.device:
    """Return the device of the config; set the process' threads and determinism too.

    Raises ValueError where the config asks for a GPU and there is none, for a precision that the
    GPU lacks, and for machine.compile=true without a compiler.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ValueError(
            "machine.device=cuda, but torch finds no GPU; "
            "set machine.device=cpu or install a CUDA build"
        )
    device = torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")
    if device.type == "cuda" and config.precision == "bf16" and not has_bf16():
        raise ValueError(
            f"machine.precision=bf16 is not supported on {torch.cuda.get_device_name(device)}: it "
            "has no bfloat16 arithmetic; set machine.precision=fp32"
        )
    if device.type == "cpu":
        torch.set_num_threads(max(1, config.threads))
        if config.precision == "bf16" and not multiplies_bf16():
            log.warning(
                "machine.precision=bf16 is slow on %s, which has no bfloat16 products of its own; "
                "machine.precision=fp32 is faster here",
                device_name(device),
            )
    if config.compile and device.type == "cpu" and not has_compiler():
        raise ValueError(
            "machine.compile=true needs a C++ compiler on a CPU and none is found; "
            "install g++, name one in $CXX, or set machine.compile=false"
        )
    if config.deterministic:  # before the first product on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(config.deterministic)
    return device


def has_compiler() -> bool:
    """Say whether torch.compile finds a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"))


@functools.cache
def multiplies_bf16() -> bool:
    """Say whether the CPU multiplies bfloat16 itself (AMX, AVX-512 BF16, Arm BF16)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return any(word.endswith("bf16") for word in line.split())
    return True  # The processor does not say; no warning then.


def has_bf16() -> bool:
    """Say whether the GPU computes in bfloat16 itself (from Ampere on), not by emulation."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def device_memory(device: torch.device) -> int:
    """Return the memory of a device in bytes; of a CPU that of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return host_bytes()


def check_fits(cell: CellConfig, device: torch.device) -> None:
    """Raise ValueError where a cell's model is larger than the memory of a device."""
    machine = device_name(device) if device.type == "cuda" else "this machine"
    check_room(cell, device_memory(device), machine=machine)


@functools.cache
def device_name(device: torch.device) -> str:
    """Return the device's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def peak_flops(device: torch.device, threads: int, precision: str = "fp32") -> float | None:
    """Return the peak FLOP/s: of a GPU in bf16 from its data sheet, of a CPU measured on products.

    None for a GPU that scaling.schema.devices does not know. `threads` is part of the key under
    which the measured value is cached.
    """
    if device.type == "cuda":
        device_spec = device_of_label(device_name(device))
        return device_spec.peak if device_spec else None
    n = 512
    a = torch.randn(n, n, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on a device; a GPU is sent it while it still computes."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def count_memory_anew(device: torch.device) -> None:
    """Start counting a GPU's `peak_memory` anew: a process trains several cells in turn."""
    if device.type == "cuda":
        torch.cuda.init()  # without it there is nothing to reset, which is an error
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes of this process: on a GPU since `count_memory_anew`, else ever."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which a forward pass runs."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
