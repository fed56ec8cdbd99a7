"""A made-up swarm: three sources, two domains, losses by a known law of effective data."""

import numpy as np
import pandas as pd

SOURCES, DOMAINS = ("code", "books", "web"), ("code", "books")
TRUTH = {  # domain: E, eps, g, beta, and w of each source
    "code": (1.2, 0.05, 0.5, 0.6, (0.9, 0.02, 0.2)),
    "books": (2.0, 0.08, 0.7, 0.5, (0.03, 0.8, 0.4)),
}


def losses_at(shares: np.ndarray) -> np.ndarray:
    """Return the true losses (n, domains) at shares (n, J)."""
    columns = []
    for offset, eps, g, beta, w in TRUTH.values():
        columns.append(offset + (eps + shares**g @ np.array(w)) ** -beta)
    return np.column_stack(columns)


def table_of(n: int = 30, *, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Return n mixtures around 30 % code, 20 % books and 50 % web."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.array([0.9, 0.6, 1.5]), size=n)
    losses = losses_at(shares) * np.exp(noise * rng.standard_normal((n, 2)))
    names = [f"share_{s}" for s in SOURCES] + [f"loss_{d}" for d in DOMAINS]
    return pd.DataFrame(np.column_stack([shares, losses]), columns=names)
