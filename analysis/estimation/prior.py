"""A Gaussian prior of the Chinchilla form over published laws, for tables of few runs.

Over published laws the five parameters vary in about three directions, since A moves with alpha and
B with beta. The prior therefore lives in coordinates at the middle of the table, where N and D are
their geometric means: log L there, the logs of either term over E, log alpha and log beta. A loss
in another unit moves the first one alone.

Laws of one paper, or refits of one paper's runs, are a family. Every family weighs alike. The
covariance is that within families plus that between them, enlarged for how few families there are,
plus a deviation of its own for every coordinate. Kaplan et al. 2020 have no E, and the other
published laws give no loss of N and D: they are left out.

The constants were set on the published tables that `benchmarks/few_cells.py` reads, with the
table's own family left out: deviations of .1 to .3 gave errors that differ by less than a tenth
(mean over the four families of the median error at 10 times the largest C).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from analysis.forms import Array
from analysis.laws.published import load_law

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "Hoffmann 2022": ("hoffmann2022_tex", "besiroglu2024"),
    "Muennighoff 2023": ("muennighoff2023",),
    "Gadre 2024": ("gadre2024_c4", "gadre2024_rpj", "gadre2024_rw"),
}
PARAMETERS = ("E", "A", "B", "alpha", "beta")
ENLARGED = 2.0  # factor on the covariance of the families, of which there are two or three
LEVEL_SD = 1.0  # deviation of log L at the middle of the table: the runs say it, not the prior
OWN_SD = 0.2  # deviation of every other coordinate beside that of the families
HIGHEST = 50.0  # cut of a log, so that a walk far from the data stays a number


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A Gaussian of the coordinates u = (log L, log t_N/E, log t_D/E, log alpha, log beta).

    families: {family: names of its published laws}
    middle: log N and log D of the middle of the table (2,)
    mean: of u (5,)
    covariance: of u (5, 5)
    """

    families: Mapping[str, tuple[str, ...]]
    middle: Array
    mean: Array
    covariance: Array

    @classmethod
    def over(cls, families: Mapping[str, Sequence[str]], log_n: Array, log_d: Array) -> Self:
        """Return the prior over families of published laws for a table.

        families: {family: names of `analysis.laws.published.PUBLISHED`}, at least one
        log_n: log N of the runs (n,)
        log_d: log D of the runs (n,)

        Raises ValueError for no family, an unknown law, and one without the Chinchilla form.
        """
        if not families:
            raise ValueError("the prior has no family of laws; give one, as {'mine': ['NAME']}")
        middle = np.array([log_n.mean(), log_d.mean()])
        laws = [np.array([_chinchilla(name) for name in names]) for names in families.values()]
        coordinates = [inward(parameters, middle) for parameters in laws]
        means = np.array([u.mean(axis=0) for u in coordinates])
        mean = means.mean(axis=0)
        within = np.mean(
            [(u - m).T @ (u - m) / len(u) for u, m in zip(coordinates, means, strict=True)], axis=0
        )
        count = len(means)
        between = (means - mean).T @ (means - mean) / max(count - 1, 1)
        own = np.diag([LEVEL_SD, *[OWN_SD] * 4]) ** 2
        return cls(
            families={family: tuple(names) for family, names in families.items()},
            middle=middle,
            mean=mean,
            covariance=ENLARGED * (1 + 1 / count) * (within + between) + own,
        )

    def parameters(self, u: Array) -> Array:
        """Return E, A, B, alpha, beta (S, 5) at coordinates (S, 5)."""
        e, log_t_n, log_t_d, alpha, beta = parts(u)
        a, b = log_t_n + alpha * self.middle[0], log_t_d + beta * self.middle[1]
        return np.stack([e, np.exp(a), np.exp(b), alpha, beta], axis=1)

    def log_losses(self, u: Array, log_n: Array, log_d: Array) -> Array:
        """Return log L (S, n) at coordinates (S, 5) and runs (n,)."""
        e, log_t_n, log_t_d, alpha, beta = (part[:, None] for part in parts(u))
        in_n = np.minimum(log_t_n - alpha * (log_n - self.middle[0]), HIGHEST)
        in_d = np.minimum(log_t_d - beta * (log_d - self.middle[1]), HIGHEST)
        return np.log(e + np.exp(in_n) + np.exp(in_d))


def inward(parameters: Array, middle: Array) -> Array:
    """Return the coordinates (S, 5) of E, A, B, alpha, beta (S, 5) at log N and log D (2,)."""
    e, a, b, alpha, beta = parameters.T
    log_e = np.log(e)
    log_t_n, log_t_d = np.log(a) - alpha * middle[0], np.log(b) - beta * middle[1]
    level = np.logaddexp(log_e, np.logaddexp(log_t_n, log_t_d))
    return np.stack([level, log_t_n - log_e, log_t_d - log_e, np.log(alpha), np.log(beta)], axis=1)


def parts(u: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return E, log t_N, log t_D, alpha and beta (S,) of coordinates (S, 5)."""
    level, share_n, share_d, log_alpha, log_beta = np.clip(u.T, -HIGHEST, HIGHEST)
    log_e = level - np.logaddexp(0.0, np.logaddexp(share_n, share_d))
    return np.exp(log_e), share_n + log_e, share_d + log_e, np.exp(log_alpha), np.exp(log_beta)


def _chinchilla(name: str) -> list[float]:
    """Return E, A, B, alpha, beta of a published law, ValueError for one that has none."""
    law = load_law(name)
    p = law.parameters
    if law.form == "overtraining":  # alpha = beta = 2 eta (analysis.forms.overtraining)
        factor = 6 ** -p["eta"]
        return [p["E"], p["a"] * factor, p["b"] * factor, 2 * p["eta"], 2 * p["eta"]]
    if not set(PARAMETERS) <= set(p):
        raise ValueError(
            f"a prior needs laws with {', '.join(PARAMETERS)}; {name} of form {law.form} has "
            f"{', '.join(p)}: leave it out"
        )
    return [p[key] for key in PARAMETERS]
