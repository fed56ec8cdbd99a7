"""Explain runs: fit laws, measure how sure they are, plan from them, report.

    from analysis import fit, load_runs
    law = fit(load_runs("runs/quick"))
    law.optimum(1e21), law.predict(1e9, 2e10, level=0.9)

N parameters, D tokens, C training FLOPs, L nats per token. `analysis.fit` is the function. The
command of that name runs as `python -m analysis.fit`; nothing imports its module, which would take
the function's place here.
"""

from analysis.estimation.fit import fit
from analysis.laws.law import Law
from analysis.laws.published import PUBLISHED, load_law
from analysis.runs.columns import Columns
from analysis.runs.table import Runs, load_runs
from analysis.solve.objective import Objective

__all__ = ["PUBLISHED", "Columns", "Law", "Objective", "Runs", "fit", "load_law", "load_runs"]
