"""`hydra/sweeper=design`: batches of cells, each chosen by what the ones before it taught.

    python -m scaling.sweep -m hydra/sweeper=design target.flops=6e11 target.precision=0.05

The sweep file's lists are the pool. The one place where running and explaining meet: cells and the
launcher are `scaling`'s, fits and choices `analysis`'s, neither imports the other.
"""

from typing import Any

from hydra_plugins.scaling_launcher import GridSweeper


class DesignSweeper(GridSweeper):
    """Let the next cells follow from the records, until the target or the budget is reached."""

    def sweep(self, arguments: list[str]) -> Any:
        """Compose the pool and pursue the target in it."""
        from hydra_plugins.scaling_design._pursuit import pursue

        launcher: Any = self.launcher
        (pool,) = self.composed(arguments)
        return pursue(pool, launcher.run)
