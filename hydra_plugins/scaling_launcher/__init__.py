"""Hydra's way into `scaling.launch`: one multirun is one call with all its cells."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class TrunkLauncher(Launcher):
    """Compose every cell, then train the missing ones, trunk by trunk, here or on SLURM."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what composing needs; `scaling.launch` runs the cells, not the task function."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the cells that these override lists name."""
        self.run(self.compose(job_overrides))
        done = []
        for overrides in job_overrides:
            job = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            job.return_value = None
            done.append(job)
        return done

    def compose(self, job_overrides: Sequence[Sequence[str]]) -> list[Any]:
        """Return the cells that these override lists name, within the limits of `grid`."""
        from scaling.sweep import compose_cells

        return compose_cells(self.loader, self.config, job_overrides)

    def run(self, cells: list[Any]) -> None:
        """Train those of the cells that are missing."""
        from scaling.launch import run_cells

        run_cells(cells, **self.options)


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper without its trial composition of every job, a quarter of a second each.

    The launcher composes each cell itself, all of them before the first trains.
    """

    def validate_batch_is_legal(self, batch: Any) -> None:
        """Leave it to the launcher."""
