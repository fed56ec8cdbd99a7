"""Hydra's launcher and grid sweeper: a multirun becomes one call of `study_run` with all its cells.

Imports of `scaling` are inside functions: Hydra imports every plugin at the start of every command.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

MOST_CELLS = 100_000  # of one sweep, far above any study: composing that many takes hours


class TrunkLauncher(Launcher):
    """Composes all cells of a sweep, then trains the missing ones on this machine or on SLURM."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what composing needs. `scaling.jobs` runs the cells, not the task function."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the cells that the override lists name; return Hydra's result for each list."""
        self.run(self.compose(job_overrides))
        jobs = []
        for overrides in job_overrides:
            job = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            job.return_value = None
            jobs.append(job)
        return jobs

    def compose(self, job_overrides: Sequence[Sequence[str]]) -> list[Any]:
        """Return the cells that the override lists name, within the limits of `grid`."""
        from scaling.jobs.grid import compose_cells

        return compose_cells(self.loader, self.config, job_overrides)

    def run(self, cells: list[Any]) -> list[Any]:
        """Train the cells that are not done; return the records of all."""
        from scaling.jobs.study_run import run_cells

        return run_cells(cells, **self.options)


def refuse_endless(overrides: list[Override]) -> None:
    """Raise ValueError for a grid of more than MOST_CELLS cells, before the cells are listed."""
    cells = 1
    for override in overrides:
        value = override.value()
        if isinstance(value, RangeSweep):  # counted unshuffled: a shuffle lists all values
            cells *= sum(1 for _ in islice(value.range(), MOST_CELLS + 1))
        elif override.is_choice_sweep():
            cells *= sum(1 for _ in islice(override.sweep_iterator(), MOST_CELLS + 1))
        if cells > MOST_CELLS:
            raise ValueError(
                f"{override.input_line or override.key_or_group} makes a sweep of more than"
                f" {MOST_CELLS:,} cells; give fewer values"
            )


class GridSweeper(BasicSweeper):
    """Hydra's sweeper, but every cell is composed once, before anything is written.

    Hydra's own sweeper composes each job a second time to check it, which takes a quarter of a
    second each, and makes the study's folder before the study's name is checked.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Compose the cells of each batch, write the sweep's config, run the batches."""
        from scaling.jobs.study_run import log_next

        assert self.config is not None
        launcher: Any = self.launcher
        batches = self.composed(arguments)
        if not self.config.dry_run:
            folder = Path(self.config.hydra.sweep.dir)
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
        records = [record for cells in batches for record in launcher.run(cells)]
        log_next(batches[0][0], records)
        return []

    def composed(self, arguments: list[str]) -> list[list[Any]]:
        """Return the cells of the sweep, in batches of `max_batch_size` override lists."""
        launcher: Any = self.launcher  # Hydra loads plugins under its own copies of their classes
        if not hasattr(launcher, "compose"):
            raise ValueError(
                f"hydra/launcher={type(launcher).__name__} cannot run a grid of cells; take"
                " hydra/launcher=local, slurm or none"
            )
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        refuse_endless(overrides)
        batches = self.split_arguments(overrides, self.max_batch_size)
        return [launcher.compose(batch) for batch in batches]
