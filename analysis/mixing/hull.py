"""How far a mixture lies from those that were trained: total variation to their convex hull.

The distance of shares r is the least half sum_j |r_j - sum_i lambda_i R_ij| over lambda >= 0 that
add to 1: the share of the mixture that would have to move. In many dimensions a fresh draw of the
same swarm lies outside the hull of the others too, and is predicted well. So a far mixture is one
beyond what most trained rows have to the hull of the others.
"""

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, identity, vstack

from analysis.forms import Array

USUAL = 0.95  # quantile of the trained rows' own distances up to which a mixture is near
MOST_ROWS = 60  # trained rows whose distance is computed; each takes some milliseconds
LEAST = 1e-6  # a distance below it is none


def nearest(shares: Array, trained: Array) -> tuple[float, Array]:
    """Return the distance of shares (J,) to the hull of trained rows (n, J), and the nearest mix.

    shares: the mixture
    trained: rows of shares
    """
    n, n_sources = trained.shape
    eye = identity(n_sources, format="csr")
    mixed = hstack([csr_array(trained.T), eye, -eye])
    total = csr_array(np.concatenate([np.ones(n), np.zeros(2 * n_sources)])[None])
    answer = linprog(
        np.concatenate([np.zeros(n), np.full(2 * n_sources, 0.5)]),
        A_eq=vstack([mixed, total]),
        b_eq=np.concatenate([shares, [1.0]]),
        method="highs",
    )
    assert answer.status == 0, answer.message
    point = answer.x[:n] @ trained
    return float(answer.fun), point / point.sum()


def usual_distance(trained: Array, seed: int = 0) -> float:
    """Return the distance up to which a mixture is near: a quantile over trained rows.

    trained: rows of shares (n, J); up to `MOST_ROWS` of them are compared with all others
    seed: of which rows
    """
    n = len(trained)
    chosen = np.random.default_rng(seed).permutation(n)[:MOST_ROWS]
    distances = [nearest(trained[i], np.delete(trained, i, axis=0))[0] for i in chosen]
    return max(float(np.quantile(distances, USUAL)), LEAST)
