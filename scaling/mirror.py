"""Start wandb's service before the cells, so that they share it; imported by the pool's server.

A service a process takes a second to start and 40 MB; each cell attaches to the one that its
environment names. What fails here is said by the first cell that misses it (`scaling.runlog`).
"""

from contextlib import suppress

with suppress(Exception):  # wandb's own faults, whatever they are, must not end the server
    import wandb

    wandb.setup(wandb.Settings(silent=True, console="off"))
