"""A task's error from its loss (Bhagia et al. 2024), or directly (Krajewski et al. 2025).

`downstream_accuracy`: Err = (1 - chance) / (1 + exp(-g (L - L_half))), where L is the loss of the
right answers in any unit. Near chance it is Gadre's eps - k exp(-g L) with eps = 1 - chance; unlike
that form it stays within [0, 1] (2412.04403). A known chance is fixed by `+fixed.chance=0.25`.

Direct laws (2512.08894) take no loss. With Q = (accuracy - chance) / (1 - chance), from 0 to 1, and
Err = (1 - chance) (1 - Q):

`accuracy_flops`: -log Q = A C^-a, at a fixed D/N.
`accuracy_size`: -log Q = A N^-a + B D^-b.
`pass_at_k`: log(-log Q) = log A + a log C + b log k + d log C log k, Q the share of problems that
    one of k samples solves; a and b are below 0.

`accuracy_two_steps` and `accuracy_two_steps_flops` are the sigmoid of a law of the loss in N and
D, or in C. Their two parts are fitted one after the other (`analysis.estimation.downstream`), since
the errors alone do not determine both. `form=downstream` compares all of these by withheld compute.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import chinchilla, power
from analysis.forms.form import Array, Form, column
from analysis.forms.grid import product

(FLOPS_OFFSET,) = (form for form in power.POWERS if form.name == "power_flops_offset")


def _error(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return (1 - p["chance"]) / (1 + np.exp(-p["g"] * (x["loss"] - p["L_half"])))


def _starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return sigmoids whose middle lies below, within and at the end of the table's losses."""
    losses = column(table, "loss")
    low, middle = float(losses.min()), float(np.median(losses))
    return product(
        chance=(0.0, 0.25, 0.5), g=(0.5, 2.0, 8.0), L_half=(low / 2, 0.8 * low, low, middle)
    )


def _two_steps(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return _error(p, {"loss": LOSS_OF["accuracy_two_steps"].predict(p, x)})


def _two_steps_flops(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return _error(p, {"loss": LOSS_OF["accuracy_two_steps_flops"].predict(p, x)})


def _of_gap(p: Mapping[str, Any], gap: Any) -> Any:
    """Return the error at a gap of -log Q."""
    return (1 - p["chance"]) * (1 - np.exp(-gap))


def _flops(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return _of_gap(p, p["A"] * x["flops"] ** -p["a"])


def _size(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return _of_gap(p, p["A"] * x["params"] ** -p["a"] + p["B"] * x["tokens"] ** -p["b"])


def _pass_at_k(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    log_c, log_k = np.log(x["flops"]), np.log(x["k"])
    log_gap = np.log(p["A"]) + p["a"] * log_c + p["b"] * log_k + p["d"] * (log_c * log_k)
    return 1 - np.exp(-np.exp(log_gap))


def _outward(theta: Mapping[str, Any], middle: Mapping[str, float]) -> Mapping[str, Any]:
    """Return the parameters of `pass_at_k`, given the level and both slopes at the middle."""
    c, k, d = middle["flops"], middle["k"], theta["d"]
    a, b = theta["a"] - d * k, theta["b"] - d * c
    level = theta["A"] - theta["a"] * c - theta["b"] * k + d * (c * k)
    return {"A": np.exp(level), "a": a, "b": b, "d": d}


def _inward(p: Mapping[str, Any], middle: Mapping[str, float]) -> Mapping[str, Any]:
    """Invert `_outward`."""
    c, k, d = middle["flops"], middle["k"], p["d"]
    a, b = p["a"] + d * k, p["b"] + d * c
    return {"A": np.log(p["A"]) + a * c + b * k - d * (c * k), "a": a, "b": b, "d": d}


def _gap_at_middle(table: pd.DataFrame, chance: Any) -> Any:
    """Return -log Q at the median error, kept away from a task at chance and from a solved one."""
    share = np.median(column(table, "error")) / (1 - chance)
    return -np.log(np.clip(1 - share, 0.02, 0.98))


def _middle(table: pd.DataFrame, name: str) -> float:
    return float(np.exp(np.log(column(table, name)).mean()))


def _starts_flops(table: pd.DataFrame) -> Mapping[str, Array]:
    grid = product(chance=(0.0, 0.25, 0.5), a=(0.05, 0.15, 0.3))
    gap = _gap_at_middle(table, grid["chance"])
    return {**grid, "A": gap * _middle(table, "flops") ** grid["a"]}


def _starts_size(table: pd.DataFrame) -> Mapping[str, Array]:
    grid = product(chance=(0.0, 0.25, 0.5), a=(0.1, 0.3), b=(0.1, 0.3), share=(0.2, 0.5, 0.8))
    gap, share = _gap_at_middle(table, grid["chance"]), grid.pop("share")
    return {
        **grid,
        "A": share * gap * _middle(table, "params") ** grid["a"],
        "B": (1 - share) * gap * _middle(table, "tokens") ** grid["b"],
    }


def _starts_pass_at_k(table: pd.DataFrame) -> Mapping[str, Array]:
    grid = product(a=(-0.3, -0.1), b=(-0.5, -0.2), d=(-0.01, 0.0, 0.01))
    c, k = np.log(_middle(table, "flops")), np.log(_middle(table, "k"))
    log_gap = np.log(_gap_at_middle(table, 0.0))
    rest = grid["a"] * c + (grid["b"] + grid["d"] * c) * k
    return {**grid, "A": np.exp(log_gap - rest)}


FORM = Form(
    name="downstream_accuracy",
    formula="Err = (1 - chance) / (1 + exp(-g (L - L_half)))",
    source="Bhagia et al. 2024, arXiv 2412.04403 eq. 3",
    parameters=("chance", "g", "L_half"),
    variables=("loss",),
    target="error",
    function=_error,
    logs=("g", "L_half"),
    bounds={"chance": (0.0, 0.99), "g": (1e-3, 100.0), "L_half": (1e-3, 1e3)},
    starts=_starts,
    objective="ls",
)
KRAJEWSKI = "Krajewski et al. 2025, arXiv 2512.08894"
_CHANCE = {"chance": (0.0, 0.99)}
FLOPS = Form(
    name="accuracy_flops",
    formula="Err = (1 - chance) (1 - exp(-A C^-a))",
    source=KRAJEWSKI,
    parameters=("chance", "A", "a"),
    variables=("flops",),
    target="error",
    function=_flops,
    logs=("A",),
    amplitudes={"A": {"a": "flops"}},
    bounds={**_CHANCE, "a": (1e-3, 4.0)},
    starts=_starts_flops,
    objective="ls",
    compared_by="downstream",
)
SIZE = Form(
    name="accuracy_size",
    formula="Err = (1 - chance) (1 - exp(-A N^-a - B D^-b))",
    source=KRAJEWSKI,
    parameters=("chance", "A", "B", "a", "b"),
    variables=("params", "tokens"),
    target="error",
    function=_size,
    logs=("A", "B"),
    amplitudes={"A": {"a": "params"}, "B": {"b": "tokens"}},
    bounds={**_CHANCE, "a": (1e-3, 8.0), "b": (1e-3, 8.0)},
    starts=_starts_size,
    objective="ls",
    compared_by="downstream",
)
PASS_AT_K = Form(
    name="pass_at_k",
    formula="Err = 1 - exp(-A C^a k^b exp(d log C log k))",
    source=KRAJEWSKI,
    parameters=("A", "a", "b", "d"),
    variables=("flops", "k"),
    target="error",
    function=_pass_at_k,
    bounds={"a": (-4.0, 4.0), "b": (-8.0, 8.0), "d": (-0.5, 0.5)},
    starts=_starts_pass_at_k,
    outward=_outward,
    inward=_inward,
    objective="ls",
    compared_by="downstream",
)
_TWO = "Bhagia et al. 2024, arXiv 2412.04403; Gadre et al. 2024, arXiv 2403.08540"
_SIGMOID = ("chance", "g", "L_half")
TWO_STEPS = Form(
    name="accuracy_two_steps",
    formula="Err = (1 - chance) / (1 + exp(-g (L - L_half))), L = E + A N^-alpha + B D^-beta",
    source=_TWO,
    parameters=(*chinchilla.FORM.parameters, *_SIGMOID),
    variables=("params", "tokens"),
    target="error",
    function=_two_steps,
    objective="ls",
    compared_by="downstream",
)
TWO_STEPS_FLOPS = Form(
    name="accuracy_two_steps_flops",
    formula="Err = (1 - chance) / (1 + exp(-g (L - L_half))), L = E + k C^-exponent",
    source=_TWO,
    parameters=(*FLOPS_OFFSET.parameters, *_SIGMOID),
    variables=("flops",),
    target="error",
    function=_two_steps_flops,
    objective="ls",
    compared_by="downstream",
)
LOSS_OF = {"accuracy_two_steps": chinchilla.FORM, "accuracy_two_steps_flops": FLOPS_OFFSET}
FORMS = (FORM, FLOPS, SIZE, PASS_AT_K, TWO_STEPS, TWO_STEPS_FLOPS)
