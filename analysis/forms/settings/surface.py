"""The loss over size, data, learning rate, batch and weight decay: a valley at every N and D.

L(N, D, lr, B, wd) = L*(N, D) (1 + Q), L* = E + A N^-alpha + B D^-beta, and near the optimum

    Q = (D/D_0)^-s (q_l z^2 + q_3 max(z, 0)^3 + q_b v^2 + q_t w^2)
    z = log lr/lr* - rho v,   v = log batch/batch*,   w = log tau/tau*
    lr* = k_lr N^p_lr D^q_lr,   batch* = k_batch N^p_batch D^q_batch
    tau = batch / (lr wd D),    tau* = k_tau (D/N)^-s_tau

z is the distance of the rate from the best rate at this batch, which moves as batch^rho (Malladi et
al. 2022, 2205.10287, have rho = 1/2 for Adam with small batches). A plain quadratic has a term in
z v instead, and may be negative; Q is not. Rates that are too high cost more than rates that are
too low: the cube. The valley is flatter for longer runs: (D/D_0)^-s, with D_0 = 1e10 tokens. The
batch is in tokens. tau is the timescale of AdamW in shares of the run (Wang and Aitchison 2024,
2405.13698; Bergsma et al. 2025, 2505.13738); a law of a table with one weight decay has no term
in w.

The form predicts and splits budgets as any other; `analysis.estimation.surfaces` fits it. Without
`lr` and `batch` it gives L*, with one of them the other has its best value.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.forms.chinchilla import optimum
from analysis.forms.form import Form

MIDDLE_TOKENS = 1e10  # D_0 in tokens, a round number among the runs that such laws are fitted on
LOSS = ("E", "A", "B", "alpha", "beta")  # parameters of L*(N, D)
RATE = ("k_lr", "p_lr", "q_lr")
BATCH = ("k_batch", "p_batch", "q_batch")
SHAPE = ("q_l", "q_3", "q_b", "rho", "s")
DECAY = ("k_tau", "s_tau", "q_t")  # of a law of weight decay


def loss(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L at `params`, `tokens` and, where they are given, `lr`, `batch`, `weight_decay`."""
    least = p["E"] + p["A"] * x["params"] ** -p["alpha"] + p["B"] * x["tokens"] ** -p["beta"]
    if not {"lr", "batch", "weight_decay"} & set(x):
        return least
    return least * (1 + excess(p, x))


def excess(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return Q, the share by which settings lose to the best ones at their N and D."""
    lr, batch = best(p, x["params"], x["tokens"], x.get("batch"))
    v = np.log(x["batch"] / best_batch(p, x["params"], x["tokens"])) if "batch" in x else 0.0
    z = np.log(x["lr"] / lr) if "lr" in x else 0.0
    cost = p["q_l"] * z**2 + p["q_3"] * np.maximum(z, 0.0) ** 3 + p["q_b"] * v**2
    if "q_t" in p and "weight_decay" in x:
        tau = batch / (x.get("lr", lr) * x["weight_decay"] * x["tokens"])
        cost = cost + p["q_t"] * np.log(tau / best_timescale(p, x["params"], x["tokens"])) ** 2
    return cost * (x["tokens"] / MIDDLE_TOKENS) ** -p["s"]


def best_batch(p: Mapping[str, Any], params: Any, tokens: Any) -> Any:
    """Return batch* in tokens."""
    return p["k_batch"] * params ** p["p_batch"] * tokens ** p["q_batch"]


def best(p: Mapping[str, Any], params: Any, tokens: Any, batch: Any = None) -> tuple[Any, Any]:
    """Return the best rate and batch; at a batch that is given, the best rate at that batch."""
    lr = p["k_lr"] * params ** p["p_lr"] * tokens ** p["q_lr"]
    least = best_batch(p, params, tokens)
    return (lr, least) if batch is None else (lr * (batch / least) ** p["rho"], batch)


def best_timescale(p: Mapping[str, Any], params: Any, tokens: Any) -> Any:
    """Return tau*, the share of the run over which the weights are averaged."""
    return p["k_tau"] * (tokens / params) ** -p["s_tau"]


def best_decay(p: Mapping[str, Any], params: Any, tokens: Any, lr: Any, batch: Any) -> Any:
    """Return the best weight decay at a rate and a batch: batch / (lr tau* D)."""
    return batch / (lr * best_timescale(p, params, tokens) * tokens)


FORM = Form(
    name="surface",
    formula="L = (E + A N^-alpha + B D^-beta) (1 + Q)",
    source="own proposal: Hoffmann et al. 2022, arXiv 2203.15556 eq. 2, times a valley about lr*"
    " and batch* as powers of N and D (Li et al. 2025, arXiv 2503.04715)",
    parameters=(*LOSS, *RATE, *BATCH, *SHAPE),
    variables=("params", "tokens", "lr", "batch", "weight_decay"),
    optional=("lr", "batch", "weight_decay"),
    offset="E",
    function=loss,
    optimum=optimum,
    own_method=True,
)
