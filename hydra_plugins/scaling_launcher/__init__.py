"""Hydra's way into `scaling.jobs.study_run`: one multirun is one call with all its cells."""

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

MOST_CELLS = 100_000  # of one sweep: composing that many takes hours, far above any study


class TrunkLauncher(Launcher):
    """Compose every cell, then train the missing ones, trunk by trunk, here or on SLURM."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what composing needs; `scaling.jobs` runs the cells, not the task function."""
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
        from scaling.jobs.grid import compose_cells

        return compose_cells(self.loader, self.config, job_overrides)

    def run(self, cells: list[Any]) -> None:
        """Train those of the cells that are missing."""
        from scaling.jobs.study_run import run_cells

        run_cells(cells, **self.options)


def refuse_endless(overrides: list[Override]) -> None:
    """Refuse a grid of more than MOST_CELLS cells before its combinations are listed."""
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
    """Hydra's sweeper, but every cell is composed once, and before anything is written.

    Hydra's own composes each job a second time to try it, a quarter of a second each, and makes the
    study's folder first, whatever its name is.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Compose the cells of each batch, keep the sweep's config, run the batches."""
        assert self.config is not None
        launcher: Any = self.launcher
        batches = self.composed(arguments)
        if not self.config.dry_run:
            folder = Path(self.config.hydra.sweep.dir)
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
        for cells in batches:
            launcher.run(cells)
        return []

    def composed(self, arguments: list[str]) -> list[list[Any]]:
        """Return the cells of the sweep, in batches of `max_batch_size` override lists."""
        launcher: Any = self.launcher  # Hydra loads plugins under its own copies of their classes
        if not hasattr(launcher, "compose"):
            raise ValueError(
                f"hydra/launcher={type(launcher).__name__} cannot run a grid of cells; take"
                " hydra/launcher=local or slurm"
            )
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        refuse_endless(overrides)
        batches = self.split_arguments(overrides, self.max_batch_size)
        return [launcher.compose(batch) for batch in batches]
