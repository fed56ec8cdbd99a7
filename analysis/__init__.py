"""Explain runs: fit laws, measure how sure they are, plan from them, report.

    from analysis import fit, load_runs
    law = fit(load_runs("runs/quick"))
    law.optimum(1e21), law.predict(1e9, 2e10, level=0.9)

N parameters, D tokens, C training FLOPs, L nats per token. Names load on first use, so that
`analysis.fit` is the function here and the application as `python -m analysis.fit`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.estimation.fit import fit
    from analysis.laws.law import Law
    from analysis.laws.published import PUBLISHED, load_law
    from analysis.runs.columns import Columns
    from analysis.runs.table import Runs, load_runs
    from analysis.solve.objective import Objective

_HOMES = {
    "fit": "analysis.estimation.fit",
    "load_runs": "analysis.runs.table",
    "load_law": "analysis.laws.published",
    "PUBLISHED": "analysis.laws.published",
    "Law": "analysis.laws.law",
    "Objective": "analysis.solve.objective",
    "Columns": "analysis.runs.table",
    "Runs": "analysis.runs.table",
}

__all__ = ["PUBLISHED", "Columns", "Law", "Objective", "Runs", "fit", "load_law", "load_runs"]


class _Room(ModuleType):
    """A package whose public names load on first use and are not shadowed by `analysis.fit`."""

    def __getattribute__(self, name: str) -> Any:
        """Return a public name from its home, anything else as usual."""
        homes = super().__getattribute__("_HOMES")
        if name in homes:
            return getattr(import_module(homes[name]), name)
        return super().__getattribute__(name)

    def __dir__(self) -> list[str]:
        """List the public names."""
        return sorted(__all__)


sys.modules[__name__].__class__ = _Room
