"""How well the laws predict mixtures that they have not seen: withheld folds of the rows."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from analysis.forms import Array
from analysis.mixing.laws import MixtureLaw
from analysis.mixing.solve import minimise
from analysis.mixing.table import Swarm

FOLDS = 5
SPARE = 2  # rows beyond the parameters that a fold must leave, else each row is a fold of its own


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """Predictions of rows that the fit did not see.

    predicted: losses (n, domains)
    seen: losses (n, domains)
    folds: number of them
    """

    predicted: Array
    seen: Array
    folds: int

    @property
    def residuals(self) -> Array:
        """Seen over predicted, as logs (n, domains)."""
        return np.log(self.seen / self.predicted)

    @property
    def ranks(self) -> Array:
        """Spearman's rank correlation of each domain (domains,)."""
        return np.array([rank(p, s) for p, s in zip(self.predicted.T, self.seen.T, strict=True)])

    @property
    def errors(self) -> Array:
        """Median absolute relative error of each domain (domains,)."""
        return np.median(np.abs(self.predicted / self.seen - 1), axis=0)

    def skill(self, target: Array) -> float:
        """Return 1 less the squared error of the weighted loss over its variance; 1 is perfect."""
        seen = self.seen @ target
        around = ((seen - seen.mean()) ** 2).sum()
        return 1 - float(((self.predicted @ target - seen) ** 2).sum() / max(around, 1e-300))


def rank(predicted: Array, seen: Array) -> float:
    """Return Spearman's rank correlation (n,); 0 where either does not vary."""
    if np.ptp(predicted) == 0 or np.ptp(seen) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(predicted), rankdata(seen))[0, 1])


def withhold(law: MixtureLaw, theta: Array, swarm: Swarm, seed: int) -> Withheld:
    """Fit the laws without each fold of rows and predict it.

    law: the form
    theta: of all rows (domains, K), from which each fold's fit starts
    swarm: the trained rows; equal mixtures lie in one fold
    seed: of the folds
    """
    mixes, group = np.unique(swarm.shares, axis=0, return_inverse=True)
    n, size = len(mixes), law.size(len(swarm.sources))
    folds = FOLDS if n * (FOLDS - 1) // FOLDS >= size + SPARE else n
    fold = (np.random.default_rng(seed).permutation(n) % folds)[group.ravel()]
    logs = np.log(swarm.losses).T
    predicted = np.empty_like(swarm.losses)
    for index in range(folds):
        out = fold == index
        ends = minimise(law, theta, swarm.shares[~out], logs[:, ~out])
        predicted[out] = law.losses(ends.theta, swarm.shares[out])
    return Withheld(predicted=predicted, seen=swarm.losses, folds=folds)
