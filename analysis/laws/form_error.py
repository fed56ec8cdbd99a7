"""The error of a law beyond its data: what hindcasts show, and the least that is assumed.

A hindcast that chance explains is no evidence that the form is right, so the error by distance is
never 0. The constants were set with the published tables of four families in view. For 90 % of the
runs beyond ten times the compute (`benchmarks/averaging.py`) three of the families need none to
.7 % by each e-fold, the badly tuned tables of Porian et al. 2024 more than 2 %.
"""

import numpy as np

from analysis.forms import Array

ERROR_GROWTH = 0.006  # least relative error of the loss by each e-fold of C beyond the data
# Set on the tables of benchmarks/few_cells.py, own family left out: 90 % intervals held 86 % of the
# runs at x10 without it and 90 % with it (mean over the four families).
PRIOR_GROWTH = 0.01  # the same of a law with a prior over published laws
DEFAULT_GROWTH = 0.012  # the same where no larger runs were withheld


def tau_at(knots: list[list[float]], distance: Array) -> Array:
    """Return tau at log-distances: linear from 0 through the knots, and as the square beyond them.

    knots: [log-distance, tau] pairs of the hindcasts
    distance: log of C over the largest C fitted, at least 0

    The square, because a form that follows level and slope at the edge errs first by curvature.
    """
    if not knots:
        return np.zeros_like(distance)
    h, tau = np.array([[0.0, 0.0], *knots]).T
    beyond = tau[-1] * (distance / h[-1]) ** 2
    return np.where(distance > h[-1], beyond, np.interp(distance, h, tau))
