"""What the mirrors of many cells share: wandb's imports and its service.

A process that starts a service of its own waits a second for it, and a first run imports as much
again. A pool preloads this module in the server that its cells are forked from, and hands them the
address of one service. What fails here is said by the first cell that misses it (`scaling.runlog`).
"""

import importlib
import os
from contextlib import suppress

SERVICE = "WANDB_SERVICE"  # names the service to attach to
LATE = ("wandb", "wandb._analytics", "wandb.sdk.launch", "wandb.apis.public", "requests", "yaml")

for _name in LATE:  # wandb's own faults, whatever they are, must not end a pool
    with suppress(Exception):
        importlib.import_module(_name)


def shared_service() -> dict[str, str]:
    """Start wandb's service; returns the environment by which other processes find it."""
    with suppress(Exception):
        import wandb

        wandb.setup(wandb.Settings(silent=True, console="off"))
    return {SERVICE: os.environ[SERVICE]} if SERVICE in os.environ else {}
