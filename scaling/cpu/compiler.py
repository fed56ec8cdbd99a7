"""Whether the kernels for CPUs can be compiled here (scaling.cpu.kernels)."""

import logging
from functools import cache
from importlib.util import find_spec

log = logging.getLogger(__name__)


@cache
def has_numba() -> bool:
    """Say whether numba is installed; log once where it is not."""
    installed = find_spec("numba") is not None
    if not installed:
        log.info("numba is absent: a CPU trains slower; pip install 'scaling-laws[fast]' brings it")
    return installed
