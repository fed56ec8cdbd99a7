"""`hydra/sweeper=design`: run cells in batches, each chosen by the results of the batches before.

    scaling sweep -m hydra/sweeper=design target.flops=6e11 target.precision=0.05

The lists of the sweep file are the pool of cells to choose from. This plugin is the one place that
imports both packages: cells and the launcher come from `scaling`, fits and choices from `analysis`,
and neither of the two imports the other.
"""

from typing import Any

from hydra_plugins.scaling_launcher import GridSweeper


class DesignSweeper(GridSweeper):
    """Chooses the next cells from the records, until the target or the budget is reached."""

    def sweep(self, arguments: list[str]) -> Any:
        """Compose the pool of cells and run batches of it until the target is reached."""
        # Hydra imports every plugin at the start of every command; `_pursuit` imports scipy.
        from hydra_plugins.scaling_design._pursuit import pursue

        launcher: Any = self.launcher
        (pool,) = self.composed(arguments)
        return pursue(pool, launcher.run)
