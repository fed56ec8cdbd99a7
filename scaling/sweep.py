"""Train a grid of cells.

    scaling sweep -m [sweeps=NAME] [key=value ...] [hydra/launcher=slurm] [dry_run=true]

Each file in sweeps/ asks one question. A cell whose record is done is skipped, so the same command
resumes a killed sweep, tries failed cells again, and grows a grid. Without -m it trains one cell.
"""

import logging
from dataclasses import replace

from scaling.app.application import start, store
from scaling.config import CellConfig, LauncherOptions
from scaling.jobs.study_run import log_next, run_cells
from scaling.jobs.swarm import swarm_of
from scaling.train.rank_exit import run_to_end

log = logging.getLogger(__name__)
store("sweep", CellConfig)


def with_vocabulary(cell: CellConfig) -> CellConfig:
    """Return a cell that holds the hash of its `tokenizer.source`, as the cells of a grid do."""
    from scaling.data.vocabulary_files import with_source  # for speed: most cells have none

    return replace(cell, tokenizer=with_source(cell.tokenizer)) if cell.tokenizer.source else cell


def main(config: CellConfig) -> None:
    """Train the one cell of the config, as one of several ranks under torchrun or srun."""
    from scaling.train.ranks import started_ranks  # for speed: the sweep itself needs no torch

    if started_ranks() > 1:
        from scaling.jobs.external_ranks import train_on_ranks

        train_on_ranks(with_vocabulary(config))
    else:
        cell = with_vocabulary(config)
        log_next(cell, run_cells(swarm_of(cell)))


if __name__ == "__main__":
    run_to_end(
        lambda: start(
            main, config_name="sweep", schema=CellConfig, sweeps=True, launcher=LauncherOptions
        )
    )
