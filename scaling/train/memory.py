"""Out of memory: find the largest micro-batch that fits by trial, and say so in the error."""

import gc
from collections.abc import Callable

import torch

# What torch's allocator for CPUs says in its RuntimeError.
CPU_SAYS = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the device or the machine ran out of memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_SAYS)
    )


def divisors(rows: int) -> list[int]:
    """Return the divisors of a number of rows, the largest first."""
    return [n for n in range(rows, 0, -1) if rows % n == 0]


def largest_that_fits(rows: int, fits: Callable[[int], object]) -> int:
    """Return the largest proper divisor of `rows` for which `fits` does not run out of memory.

    Returns 0 where not even one row fits. Other errors are raised.
    """
    for fewer in divisors(rows)[1:]:
        free()
        try:
            fits(fewer)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return fewer
    return 0


def free() -> None:
    """Free memory that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def advice(rows: int, fitting: int) -> str:
    """Say what to set when `rows` of a forward pass did not fit."""
    if not fitting:
        return (
            f"out of memory with {rows} rows a forward pass, and with a single one; shorten "
            "data.context, choose a smaller model, or set machine.activation_checkpointing=true"
        )
    return (
        f"out of memory with {rows} rows a forward pass; machine.micro_batch={fitting} fits "
        "(the same batch in parts, to the same gradient)"
    )
