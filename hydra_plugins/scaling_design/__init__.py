"""`hydra/sweeper=design`: batches of cells, each chosen by what the ones before it taught.

    python -m scaling.sweep -m hydra/sweeper=design target.flops=6e11 target.precision=0.05

The sweep file's lists are the pool. The one place where running and explaining meet: cells and the
launcher are `scaling`'s, fits and choices `analysis`'s, neither imports the other.
"""

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.scaling_launcher import GridSweeper


class DesignSweeper(GridSweeper):
    """Let the next cells follow from the records, until the target or the budget is reached."""

    def sweep(self, arguments: list[str]) -> Any:
        """Compose the pool and pursue the target in it."""
        from hydra_plugins.scaling_design._pursuit import pursue

        launcher: Any = self.launcher  # Hydra loads plugins under its own copies of their classes
        if not hasattr(launcher, "compose"):
            raise ValueError(
                f"hydra/launcher={type(launcher).__name__} cannot run batches of cells; take"
                " hydra/launcher=local or slurm"
            )
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        product = self.split_arguments(overrides, None)[0]
        return pursue(launcher.compose(product), launcher.run)
