"""Out of memory, said with the largest micro-batch that fits, found by trial."""

import gc
from collections.abc import Callable

import torch

CPU_SAYS = ("can't allocate memory", "not enough memory")  # of torch's own allocator


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is a device's or the machine's memory running out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_SAYS)
    )


def divisors(rows: int) -> list[int]:
    """Return what divides a number of rows, the largest first."""
    return [n for n in range(rows, 0, -1) if rows % n == 0]


def largest_that_fits(rows: int, fits: Callable[[int], object]) -> int:
    """Return the largest proper divisor of `rows` that `fits` is called with in vain of an error.

    0 when not even one row fits. Other errors than of memory are raised.
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
    """Give back what nothing holds any more."""
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
