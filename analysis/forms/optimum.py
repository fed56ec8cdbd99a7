"""How a law splits a budget: the N and D of least loss with C = c(N) D, closed or by search.

c(N) are the FLOPs per token of the study's shapes (`analysis.forms.token_flops`), or 6N. With 6N a
form with a closed form gives log N* itself (Hoffmann et al. 2022 eq. 4 for the Chinchilla form).
Else the loss is searched along the budget. Regressions N = k C^a are their own optimum.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.forms import FORMS, Array, Form
from analysis.forms.token_flops import TokenFlops, params_at_ratio, per_token

FAR = 300.0  # log N is cut off there: no model is as large, and exp(300) still is a float
GRID = 24  # sizes tried along a budget before parabolas
SHRINK = 0.3  # of the distance between the three sizes of a parabola, from one to the next
NO_LOSS = 700.0  # log of a loss that no size of finite loss exceeds
FINEST = 1e-4  # distance in log N of the last parabola
FLAT = 1e-12  # of log loss: a minimum that is less deep is rounding
RATIOS = (0.5, 1e4)  # tokens per parameter that are searched; no form was fitted to runs beyond
AT_BOUND = 1.01  # a ratio within this factor of a bound of the search stands at the bound


def chinchilla_optimum(parameters: Mapping[str, Any], flops: float) -> dict[str, Any]:
    """Return params, tokens, tokens_per_param, a, b for C = 6ND (Hoffmann et al. 2022 eq. 4)."""
    return optimal_split(FORMS["chinchilla"], parameters, flops)


def optimal_split(
    form: Form,
    parameters: Mapping[str, Any],
    flops: float,
    variables: Mapping[str, Any] | None = None,
    token_flops: TokenFlops | None = None,
) -> dict[str, Any]:
    """Return params, tokens, tokens_per_param and the local exponents a, b at C = c(N) D.

    form: a form of N and D
    parameters: its parameters, numbers or arrays (draws,)
    flops: the budget C
    variables: further variables of the form, as `unique_tokens`; the optimum is searched with them,
        as it is for a form without a closed form
    token_flops: c(N), None for 6N
    """
    if form.optimum is not None and not variables and token_flops is None:
        log_params = np.clip(form.optimum(parameters, flops), -FAR, FAR)
        a = form.optimum(parameters, np.e * flops) - form.optimum(parameters, flops)
        log_tokens = np.log(flops / 6) - log_params
        return _split(log_params, log_tokens, a=a, b=1 - a)
    searched = [
        _search_log_params(form, parameters, c, variables or {}, token_flops)
        for c in (flops, np.e * flops)
    ]
    log_params, further = searched
    costs = [np.log(per_token(np.exp(x), token_flops)) for x in searched]
    a, b = further - log_params, 1 - (costs[1] - costs[0])
    return _split(log_params, np.log(flops) - costs[0], a=a, b=b)


def edge_of(tokens_per_param: float) -> str:
    """Return which edge of the search an optimum stands at: lower, upper, or "" for neither."""
    for edge, bound in zip(("lower", "upper"), RATIOS, strict=True):
        if 1 / AT_BOUND < tokens_per_param / bound < AT_BOUND:
            return edge
    return ""


def _split(log_params: Any, log_tokens: Any, *, a: Any, b: Any) -> dict[str, Any]:
    return {
        "params": np.exp(log_params),
        "tokens": np.exp(log_tokens),
        "tokens_per_param": np.exp(log_tokens - log_params),
        "a": a,
        "b": b,
    }


def split_intervals(
    form: Form,
    parameters: Mapping[str, Any],
    draws: Array,
    flops: float,
    level: float,
    variables: Mapping[str, Any] | None = None,
    token_flops: TokenFlops | None = None,
) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of each quantity that `optimal_split` returns.

    form: a form of N and D
    parameters: its parameters, whose names are the columns of the draws
    draws: parameters of resamples (S, P)
    flops: the budget C
    level: of the intervals
    variables: further variables of the form, as `unique_tokens`
    token_flops: c(N), None for 6N
    """
    by_name = {name: draws[:, i] for i, name in enumerate(parameters)}
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name, values in optimal_split(form, by_name, flops, variables, token_flops).items():
        low, high = np.nanquantile(values, tails)
        intervals[name] = (float(low), float(high))
    return intervals


def _search_log_params(
    form: Form,
    parameters: Mapping[str, Any],
    flops: float,
    variables: Mapping[str, Any],
    token_flops: TokenFlops | None,
) -> Any:
    """Return log N* from a coarse grid and parabolas about its best size; a float or (draws,)."""
    by_name = {k: np.atleast_1d(np.asarray(v, dtype=float))[:, None] for k, v in parameters.items()}
    count = max(len(v) for v in by_name.values())
    low, high = (np.log(params_at_ratio(flops, ratio, token_flops)) for ratio in RATIOS[::-1])

    def log_loss(x: Array) -> Array:
        """Return the log loss (draws, k) at log sizes (draws, k)."""
        n = np.exp(x)
        d = flops / per_token(n, token_flops)
        values = {"params": n, "tokens": d, "flops": 6 * n * d}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            logs = np.log(form.predict(by_name, {**values, **variables}))
        return np.where(np.isfinite(logs), logs, NO_LOSS)  # a form may end far from its runs

    x = np.tile(np.linspace(low, high, GRID), (count, 1))
    best = np.take_along_axis(x, _least(log_loss(x))[:, None], axis=1)
    step = (high - low) / (GRID - 1)
    while step > FINEST:
        below, middle, above = log_loss(best + step * np.array([-1.0, 0.0, 1.0])).T
        curvature = below - 2 * middle + above
        vertex = (below - above) / (2 * np.where(curvature > 0, curvature, 1.0))
        move = np.where(curvature > 0, np.clip(vertex, -1, 1), np.sign(below - above))
        best = np.clip(best + step * move[:, None], low, high)
        step *= SHRINK
    best = best[:, 0]
    return best if any(np.ndim(v) for v in parameters.values()) else float(best[0])


def _least(losses: Array) -> Array:
    """Return the index of the least inner minimum of each row, of the least value without one.

    A form may fall again far from its runs. A search that took the end of its range as soon as the
    end lay lower would jump there from one budget to the next, and the optimum with it.
    """
    inner = losses[:, 1:-1]
    is_minimum = (inner < losses[:, :-2] - FLAT) & (inner < losses[:, 2:] - FLAT)
    least = np.where(is_minimum, inner, np.inf)
    return np.where(is_minimum.any(axis=1), 1 + np.argmin(least, axis=1), np.argmin(losses, axis=1))


def frontier(parameters: Mapping[str, Any], flops: ArrayLike) -> Array:
    """Return L*(C) = E + K (C/6)^-gamma, the least loss of a Chinchilla law."""
    split = [chinchilla_optimum(parameters, c) for c in np.atleast_1d(flops)]
    n, d = np.array([s["params"] for s in split]), np.array([s["tokens"] for s in split])
    return FORMS["chinchilla"].predict(parameters, {"params": n, "tokens": d})


def power_optimum(allocation: Mapping[str, Any], flops: float) -> dict[str, Any]:
    """Return the split of a law N = k_params C^a, D = k_tokens C^b (or C / 6N without k_tokens)."""
    a, b = allocation["a"], allocation["b"]
    params = allocation["k_params"] * flops**a
    tokens = allocation["k_tokens"] * flops**b if "k_tokens" in allocation else flops / 6 / params
    return {"params": params, "tokens": tokens, "tokens_per_param": tokens / params, "a": a, "b": b}
