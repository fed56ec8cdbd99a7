"""A design, which is a form on one table: predictions and derivatives at many theta at once.

theta is the solver's parameter vector. It holds the log of each amplitude at the middle of the
table, so that amplitudes do not trade against exponents and the units of N and D only shift an
intercept. It holds the logs of the parameters that a form lists in `logs`, and the others as they
are. `external` turns theta into the form's parameters and `internal` inverts it. A design of
power-law terms and a design of a plain function both return `RowSums`, which is all that an
objective needs.

Legend: S problems, P parameters, K terms, n rows. theta (S, P), prediction (S, n).
"""

import pandas as pd

from analysis.forms import Form
from analysis.solve.function_predictions import FunctionDesign, function_design
from analysis.solve.term_predictions import TermDesign, term_design

Design = TermDesign | FunctionDesign


def design(form: Form, table: pd.DataFrame, *, raw: tuple[str, ...] = ()) -> Design:
    """Put a form on a table; the amplitudes in `raw` are fixed by the caller and not centred."""
    return (
        term_design(form, table, raw)
        if form.function is None
        else function_design(form, table, raw)
    )
