"""One cell trained by several ranks, each a process started by torchrun or srun.

    torchrun --nproc-per-node=2 -m scaling.sweep model=m1m budget.n_tokens=1e6 '~sweeps'

A rank that fails takes the others with it (torchrun ends them); the same command goes on from the
last checkpoint.
"""

import logging
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

from conf.progress import Progress
from scaling.attempt import Pulse
from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.data import open_corpus
from scaling.failure import cell_folder
from scaling.parallel import World, join, leave
from scaling.schema import Record
from scaling.trainer import train_trunk

log = logging.getLogger(__name__)


def train_together(cell: CellConfig) -> Record:
    """Train a cell as one of the ranks; return its record.

    SIGTERM and SIGUSR2 at any rank end all of them after a checkpoint. ValueError for a stage after
    pretraining, which one process trains.
    """
    if cell.stage != "pretrain":
        raise ValueError(
            f"stage={cell.stage} is trained by one process; start it without torchrun or srun"
        )
    world, pulse = join(cell.machine.device), Pulse()

    def stop(number: int, frame: object) -> None:
        pulse.stop = "preempted" if number == signal.SIGUSR2 else "stopped"

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR2, stop)
    try:
        return train_rank(cell, world, pulse)
    finally:
        leave()


def train_rank(cell: CellConfig, world: World, pulse: Pulse) -> Record:
    """Train with files where this is the first rank, and with files that nobody reads elsewhere."""
    if world.first:
        open_corpus(cell)  # tokenised by one; the others find it done
    world.share(None)
    if not world.first:
        with tempfile.TemporaryDirectory() as folder:
            quiet = replace(cell, log=replace(cell.log, wandb="disabled"))
            return train_trunk([quiet], folders=[Path(folder)], pulse=pulse, world=world)[0]
    total = resolve(cell).flops
    progress = Progress(cell.run_id(), total=total, every_seconds=cell.log.every_seconds)
    log.info("%s: %d ranks", cell_folder(cell), world.size)
    (record,) = train_trunk([cell], report=progress.update, pulse=pulse, world=world)
    progress.close()
    log.info("%s: %s, test loss %s", cell_folder(cell), record.status, record.test_loss)
    return record
