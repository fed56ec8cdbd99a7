"""Repeated data: Muennighoff et al. 2023 (2305.16264) eq. 5-6 and 17, and forms that can rise.

`data_constrained`: L = E + A N'^-alpha + B D'^-beta. With U unique tokens and R = D/U - 1 repeats,
D' = U + U R_D (1 - exp(-R/R_D)). N' has the same formula for the parameters beyond U_N, the size
that is optimal for U tokens under the same law. Up to one epoch and up to U_N the form is
Chinchilla's. The paper fixed E, A, B, alpha and beta at those of runs without repetition
(`+fixed.E=..` and so on); by default all seven parameters are fitted here. R_N is weakly determined
unless large models repeat data.

With e = D/U passes (1 where D is below U):

`overfitting`: L = E + A N^-alpha + B D^-beta + P o^g (N/U)^h, o = e / (1 + (e0/e)^2). Past about
    e0 passes the loss rises, faster for models that are large beside their data. An additive
    penalty is the proposal of arXiv 2605.01640; the powers of e and N/U are this project's. The
    passes that harm, o, begin smoothly: with max(0, e - e0) the best plan stands at the kink e0
    whatever N is. A repeated token counts as a fresh one beside the penalty: with N' and D'
    instead, R_N and R_D end at their bounds on Muennighoff's 182 runs, which would be no law.
`overfitting_log`: the same with P log(1 + (e/e0)^2)/2 (N/U)^h. The penalty grows by as much with
    every doubling of e, since a text that is known by heart costs no more at each further pass.
`overfitting_decay`: L = E + A N^-alpha + B D^-beta + Q wd^r
    + P o^g (N/U)^h (1 + wd/w0)^-q. Weight decay wd divides the penalty, and costs
    Q wd^r at any number of passes, so that for a given U there are a best e and a best wd. A
    prediction without `weight_decay` is at the best one.

`form=repetition` compares all of them by withheld epochs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.chinchilla import optimum
from analysis.forms.form import EXPONENT_BOUNDS, Array, Form, column
from analysis.forms.grid import product

MOST_REPEATS = 1e4  # bound of R_D and R_N, where no run tells a repeated token from a fresh one
NO_DECAY = 1e-9  # stands for a weight decay of 0, of which a power is taken
DECAYS = np.geomspace(1e-3, 1e2, 121)  # weight decays among which a best one is looked for
_COMMON = ("E", "A", "B", "alpha", "beta")
_BOUNDS = {
    "E": (0.0, np.inf),
    "alpha": EXPONENT_BOUNDS,
    "beta": EXPONENT_BOUNDS,
    "P": (1e-10, 1e4),
    "e0": (1.0, 1e4),
    "g": (0.1, 4.0),
    "h": (0.0, 4.0),
}
_AMPLITUDES = {"A": {"alpha": "params"}, "B": {"beta": "tokens"}}


def loss(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L; without `unique_tokens` every token is fresh."""
    params, tokens = x["params"], x["tokens"]
    if "unique_tokens" in x:
        unique = np.minimum(x["unique_tokens"], tokens)
        useful = np.minimum(_optimal_size(p, unique), params)
        tokens = effective(tokens, unique, p["R_D"])
        params = effective(params, useful, p["R_N"])
    return p["E"] + p["A"] * params ** -p["alpha"] + p["B"] * tokens ** -p["beta"]


def effective(total: Any, unique: Any, decay: Any) -> Any:
    """Return the fresh tokens worth as much as `total` of which `unique` are distinct (eq. 5)."""
    return unique * (1 + decay * (1 - np.exp((1 - total / unique) / decay)))


def _optimal_size(p: Mapping[str, Any], tokens: Any) -> Any:
    """Return the N whose compute-optimal D is `tokens`."""
    alpha, beta = p["alpha"], p["beta"]
    log_g = np.log(alpha * p["A"] / (beta * p["B"])) / (alpha + beta)
    return np.exp(log_g + beta / alpha * (np.log(tokens) + log_g))


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return grid points whose terms have given shares of the reducible loss at the middle."""
    smallest, typical = (float(f(column(table, "loss"))) for f in (np.min, np.median))
    middle = {v: np.exp(np.log(column(table, v)).mean()) for v in ("params", "tokens")}
    grid = product(
        E=(0.4, 0.7, 0.9),
        alpha=(0.25, 0.45),
        beta=(0.25, 0.45),
        R_D=(3.0, 15.0, 60.0, 200.0),
        R_N=(0.5, 2.0, 8.0),
    )
    offset = smallest * grid["E"]
    half = (typical - offset) / 2
    amplitudes = {
        "A": half * middle["params"] ** grid["alpha"],
        "B": half * middle["tokens"] ** grid["beta"],
    }
    return {**grid, "E": offset, **amplitudes}


FORM = Form(
    name="data_constrained",
    formula="L = E + A N'^-alpha + B D'^-beta, D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D)))",
    source="Muennighoff et al. 2023, arXiv 2305.16264 eq. 5-6, 17",
    parameters=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
    variables=("params", "tokens", "unique_tokens"),
    optional=("unique_tokens",),
    offset="E",
    function=loss,
    logs=("A", "B", "R_D", "R_N"),
    amplitudes={"A": {"alpha": "params"}, "B": {"beta": "tokens"}},
    bounds={
        "E": (0.0, np.inf),
        "alpha": EXPONENT_BOUNDS,
        "beta": EXPONENT_BOUNDS,
        "R_D": (0.05, MOST_REPEATS),
        "R_N": (0.05, MOST_REPEATS),
    },
    starts=starts,
    optimum=optimum,
)


def passes(x: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return U and the passes e over it; without `unique_tokens` every token is fresh."""
    tokens = x["tokens"]
    unique = np.minimum(x.get("unique_tokens", tokens), tokens)
    return unique, tokens / unique


def _fresh(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return p["E"] + p["A"] * x["params"] ** -p["alpha"] + p["B"] * x["tokens"] ** -p["beta"]


def _onset(epochs: Any, e0: Any) -> Any:
    """Return the passes that harm: none far below e0, all of them far above."""
    return epochs / (1 + (e0 / epochs) ** 2)


def _power(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    unique, epochs = passes(x)
    over = _onset(epochs, p["e0"]) ** p["g"]
    return _fresh(p, x) + p["P"] * over * (x["params"] / unique) ** p["h"]


def _logarithm(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    unique, epochs = passes(x)
    over = np.log(1 + (epochs / p["e0"]) ** 2) / 2
    return _fresh(p, x) + p["P"] * over * (x["params"] / unique) ** p["h"]


def _decayed(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    unique, epochs = passes(x)
    over = _onset(epochs, p["e0"]) ** p["g"]
    penalty = p["P"] * over * (x["params"] / unique) ** p["h"]
    if "weight_decay" in x:
        return _fresh(p, x) + _with_decay(p, penalty, np.maximum(x["weight_decay"], NO_DECAY))
    least = _with_decay(p, penalty, DECAYS[0])
    for decay in DECAYS[1:]:
        least = np.minimum(least, _with_decay(p, penalty, decay))
    return _fresh(p, x) + least


def _with_decay(p: Mapping[str, Any], penalty: Any, decay: Any) -> Any:
    """Return what a weight decay costs, and what it leaves of a penalty."""
    return p["Q"] * decay ** p["r"] + penalty * (1 + decay / p["w0"]) ** -p["q"]


def best_decay(p: Mapping[str, Any], x: Mapping[str, Any]) -> Array:
    """Return the weight decay of least loss by `overfitting_decay`, among `DECAYS`.

    p: the parameters, numbers or draws (S,)
    x: N, D and U, a number each
    """
    named = {name: np.asarray(value, dtype=float)[..., None] for name, value in p.items()}
    losses = _decayed(named, {**x, "weight_decay": DECAYS})  # (S, decays) or (decays,)
    return DECAYS[np.argmin(losses, axis=-1)]


def _rising_starts(**grid: tuple[float, ...]) -> Any:
    """Return starts: a few laws of fresh tokens, each with every penalty of the grid."""

    def starts(table: pd.DataFrame) -> Mapping[str, Array]:
        smallest, typical = (float(f(column(table, "loss"))) for f in (np.min, np.median))
        middle = {v: np.exp(np.log(column(table, v)).mean()) for v in ("params", "tokens")}
        values = product(E=(0.4, 0.8), alpha=(0.25, 0.45), beta=(0.25, 0.45), **grid)
        offset = smallest * values["E"]
        half = (typical - offset) / 2
        amplitudes = {
            "A": half * middle["params"] ** values["alpha"],
            "B": half * middle["tokens"] ** values["beta"],
        }
        return {**values, "E": offset, **amplitudes}

    return starts


_SOURCE = "this project, after arXiv 2605.01640 (an additive over-fitting penalty)"

POWER = Form(
    name="overfitting",
    formula="L = E + A N^-alpha + B D^-beta + P (e / (1 + (e0/e)^2))^g (N/U)^h, e = D/U",
    source=_SOURCE,
    parameters=(*_COMMON, "P", "e0", "g", "h"),
    variables=("params", "tokens", "unique_tokens"),
    optional=("unique_tokens",),
    offset="E",
    function=_power,
    logs=("A", "B", "P", "e0"),
    amplitudes=_AMPLITUDES,
    bounds=_BOUNDS,
    starts=_rising_starts(P=(1e-3, 1e-2, 0.1), e0=(3.0, 20.0), g=(0.5, 1.0), h=(0.5,)),
    compared_by="repetition",
)
LOGARITHM = Form(
    name="overfitting_log",
    formula="L = E + A N^-alpha + B D^-beta + P log(1 + (e/e0)^2)/2 (N/U)^h, e = D/U",
    source=_SOURCE,
    parameters=(*_COMMON, "P", "e0", "h"),
    variables=("params", "tokens", "unique_tokens"),
    optional=("unique_tokens",),
    offset="E",
    function=_logarithm,
    logs=("A", "B", "P", "e0"),
    amplitudes=_AMPLITUDES,
    bounds={k: v for k, v in _BOUNDS.items() if k != "g"},
    starts=_rising_starts(P=(0.1, 1.0), e0=(3.0, 20.0), h=(0.5, 1.0)),
    compared_by="repetition",
)
DECAYED = Form(
    name="overfitting_decay",
    formula="L = E + A N^-alpha + B D^-beta + Q wd^r"
    " + P (e / (1 + (e0/e)^2))^g (N/U)^h (1 + wd/w0)^-q, e = D/U",
    source=_SOURCE + "; weight decay near 1 cuts the penalty by about 70 % there",
    parameters=(*_COMMON, "P", "e0", "g", "h", "w0", "q", "Q", "r"),
    variables=("params", "tokens", "unique_tokens", "weight_decay"),
    optional=("unique_tokens",),
    chosen=("weight_decay",),
    offset="E",
    function=_decayed,
    logs=("A", "B", "P", "e0", "w0", "Q"),
    amplitudes=_AMPLITUDES,
    bounds={**_BOUNDS, "w0": (1e-3, 1e3), "q": (0.05, 4.0), "Q": (1e-8, 1e2), "r": (0.1, 3.0)},
    starts=_rising_starts(
        P=(1e-3, 1e-2), e0=(2.0, 8.0), g=(0.5, 1.0), h=(0.5,), w0=(0.3, 3.0), q=(1.0,),
        Q=(0.02,), r=(0.7,),
    ),
    compared_by="repetition",
)  # fmt: skip
FORMS = (FORM, POWER, LOGARITHM, DECAYED)
