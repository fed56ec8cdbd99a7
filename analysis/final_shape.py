"""The shape of the planned model: the ladder's nearest to the law's N*, and what that costs.

Beside it, the search that the rounding is judged by: L(N, C / c(N)) over the shapes of the ladder
around N*, where c(N) is the exact FLOPs per token of each shape (attention and head included).
"""

from dataclasses import dataclass

import numpy as np

from analysis.laws import Law, Optimum
from analysis.study import Study
from scaling.schema import Shape, ladder_shape

SEARCHED = 8.0  # the search spans this factor to both sides of N*
FLAT = 0.002  # nats per token: about what two seeds differ by (Porian et al. 2024)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The shape, the law's optimum before rounding, and the best of the ladder at exact FLOPs.

    `exact_params`, `exact_loss` and `flat` are None where the law predicts no loss.
    """

    shape: Shape
    optimum: Optimum
    aspect: float
    family: str
    exact_params: float | None = None
    exact_loss: float | None = None
    flat: tuple[float, float] | None = None

    def interval(self, name: str, symbol: str) -> str:
        """Say the law's value before rounding, with its interval."""
        value = getattr(self.optimum, name)
        found = self.optimum.intervals.get(name)
        level = (
            f" ({100 * self.optimum.level:g}% [{found[0]:.4g}, {found[1]:.4g}])"
            if found
            else " (no interval: the law has no draws)"
        )
        return f"{symbol} {value:.4g}{level}"

    def reasons(self, law: Law, flops: float) -> dict[str, str]:
        """Return the reasons for N and the shape."""
        reached = getattr(self.shape.params, law.count)
        nearest = f"nearest of the ladder to N*, {100 * (reached / self.optimum.params - 1):+.2g}%"
        if self.flat and self.exact_params:
            low, high = self.flat
            others = f"{low:.3g} to {high:.3g} lose" if high > low else "no other loses"
            nearest += (
                f"; with exact FLOPs per token the ladder's best has {self.exact_params:.4g}, and "
                f"{others} at most {FLAT:g} nats more"
            )
        shape = self.shape
        return {
            "params_target": (
                f"{self.interval('params', 'N*')}: the law's optimum of {law.form} at C = 6ND ="
                f" {flops:.4g} FLOPs, N ~ C^{self.optimum.a:.3f}"
            ),
            "params": nearest,
            "count": "the count that the law was fitted on",
            "model": (
                f"{shape.n_layer} layers of width {shape.d_model} (width / layers near"
                f" {self.aspect:.3g}), family of the {self.family}"
            ),
        }


def choose_shape(law: Law, flops: float, study: Study, *, level: float) -> Chosen:
    """Return the ladder's shape nearest to the law's N* at a budget, and the cost of rounding."""
    optimum = law.optimum(flops, level)
    aspect = study.aspect(optimum.params)
    shape = ladder_shape(optimum.params, like=study.like, count=law.count, aspect=aspect)
    chosen = {"shape": shape, "optimum": optimum, "aspect": aspect, "family": study.source}
    if optimum.loss is None:
        return Chosen(**chosen)
    sizes, losses = _profile(law, flops, study, around=optimum.params, aspect=aspect)
    flat = sizes[losses <= losses.min() + FLAT]
    return Chosen(
        **chosen,
        exact_params=float(sizes[losses.argmin()]),
        exact_loss=float(losses.min()),
        flat=(float(flat.min()), float(flat.max())),
    )


def _profile(
    law: Law, flops: float, study: Study, *, around: float, aspect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes of the ladder and the predicted loss of each at the budget, exact FLOPs."""
    shapes: dict[int, Shape] = {}
    for target in np.geomspace(around / SEARCHED, around * SEARCHED, 33):
        try:
            shape = ladder_shape(target, like=study.like, count=law.count, aspect=aspect)
        except ValueError:
            continue  # below the smallest shape of the family
        shapes[getattr(shape.params, law.count)] = shape
    sizes = np.array(sorted(shapes), dtype=float)
    tokens = np.array([flops / shapes[int(n)].flops_per_token for n in sizes])
    return sizes, law.predict(sizes, tokens, noise=False).loss
