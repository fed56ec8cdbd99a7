"""A form on one table: predictions and derivatives at many parameter vectors theta at once.

theta is the solver's view of the parameters: amplitudes in logs and taken at the middle of the
table (so that they do not trade against exponents, and units of N and D shift an intercept and
change nothing else), parameters that a form lists in `logs` in logs. `external` and `internal`
translate. Both kinds of design, of power-law terms and of a plain function, return `Parts` with
the same sums over rows, which are all that an objective needs.

Legend: S problems, P parameters, K terms, n rows. theta (S, P), predicted (S, n).
"""

import pandas as pd

from analysis.forms import Form
from analysis.solve.function_predictions import FunctionDesign, function_design
from analysis.solve.term_predictions import TermDesign, term_design

Design = TermDesign | FunctionDesign


def design(form: Form, table: pd.DataFrame, *, raw: tuple[str, ...] = ()) -> Design:
    """Put a form on a table; amplitudes named in `raw` are not centred (they are held fixed)."""
    return (
        term_design(form, table, raw)
        if form.function is None
        else function_design(form, table, raw)
    )
