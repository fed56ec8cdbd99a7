"""Check that a model fits a machine at all, before anything is allocated. No torch here.

Linux promises memory that it lacks and later kills a process of its choice. A short config can ask
for any size, so the least memory that training takes is compared with the memory of the machine.
"""

import os
from contextlib import suppress
from pathlib import Path

from scaling.config import CellConfig
from scaling.schema import stage_memory_bytes

# Files in which version 2 and version 1 of Linux' control groups give a limit in bytes.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def host_bytes() -> int:
    """Return this machine's memory in bytes, or less where a container or job limits it."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in LIMITS:
        with suppress(OSError, ValueError):  # absent, or the word "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def check_room(cell: CellConfig, memory_bytes: int, *, machine: str) -> None:
    """Raise ValueError where weights, gradients and moments alone exceed a machine's memory."""
    shape = cell.model.shape(vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    params = shape.params.total
    shares = cell.machine.ranks if cell.machine.shard else 1
    needed = stage_memory_bytes(params, "pretrain", ranks=shares)
    if needed > memory_bytes:
        raise ValueError(
            f"a model of {params:.3g} parameters ({shape.n_layer} layers of width {shape.d_model}) "
            f"takes at least {needed / 2**30:,.0f} GiB to train, and {machine} has "
            f"{memory_bytes / 2**30:,.0f}; choose a smaller model, or machine.shard=true with more "
            "ranks"
        )
