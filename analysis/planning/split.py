"""How a budget is split into N and D under constraints, before any rounding.

c(N) are the FLOPs per token of the study's shapes, which the law holds (`Law.flops_per_token`), or
6N for a law that knows no shapes. Without constraints the split is the law's own optimum under C =
c(N) D. With constraints, the least loss is searched along the constrained budget, in log N, for the
law and for each of its draws:

- repeated data: D' of Muennighoff et al. 2023 (2305.16264) eq. 5-6; a Chinchilla law takes their
  R_D and R_N, as they froze the law of unrepeated runs and fitted those two alone;
- repeated data by a law that can rise: no more passes than those of least loss
  (`analysis.planning.passes`), so that part of the budget may be left;
- serving: c(N) D + 2N D_inf = C (Sardana et al. 2023, 2401.00448), the budget paying for both;
- a law that gives N and D alone cannot price a constraint. Where data limit D, N is the largest
  that is affordable with one pass over all tokens, but never above N* of the whole budget (the
  choice of Wu et al. 2023, 2303.17564 section 3.2).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq

from analysis.forms import FORMS, Array
from analysis.laws.law import Law, Optimum
from analysis.laws.law_file import USABLE
from analysis.laws.published import PUBLISHED
from analysis.laws.text import describe_predicting
from analysis.planning.constraints import Constraints
from analysis.planning.passes import can_rise, tokens_of_least_loss

REPEATING = "muennighoff2023"
SPAN = (1e-4, 1e2)  # sizes searched, in units of the unconstrained N*
GRID = 1201  # sizes of the search; the planner in the page has the same
MOST_DRAWS = 400  # draws of an interval, which more would hardly move
REACH = 1e12  # C is searched down to the budget over this factor
STEP = 4.0  # ratio of the C at which the search looks
WIDE = 12.0  # in log N: c(N) lies within so many e-folds of 6N
BINDS = 1 - 1e-9  # a limit binds from this share of it on


@dataclass(frozen=True, kw_only=True)
class Split:
    """N and D before rounding; `optimum` is the law's own at the whole budget.

    `flat` are the ends of all N whose loss lies within `flat_loss` of the best. `law` gives the
    loss, with the repetition of data in it where data repeat; `form` names what gives the optimum
    without that.
    `interval` and `tokens_interval` are those of N and D.
    """

    law: Law
    form: str
    constraints: Constraints
    flops: float
    optimum: Optimum
    params: float
    tokens: float
    interval: tuple[float, float] | None
    tokens_interval: tuple[float, float] | None
    flat: tuple[float, float] | None
    flat_loss: float

    @property
    def spendable(self) -> float:
        """FLOPs of training and serving: C without the reserve."""
        return (1 - self.constraints.reserve) * self.flops

    @property
    def limited(self) -> bool:
        """Whether D stands at a limit of its own: fixed, or all the data allow."""
        return self.constraints.tokens is not None or self.tokens >= BINDS * min(
            self.constraints.most_tokens,
            _one_pass(self.law, self.constraints),
            float(_before_rising(self.law, self.constraints, np.array(self.params))),
        )

    @property
    def rises(self) -> bool:
        """Whether D stands where more passes over the unique tokens would raise the loss."""
        most = float(_before_rising(self.law, self.constraints, np.array(self.params)))
        return self.constraints.tokens is None and self.tokens >= BINDS * most

    def tokens_at(self, params: float, flops_per_token: float) -> float:
        """Return the D that budget and data allow a shape of N `params` and its FLOPs per token."""
        affordable = _affordable(self.constraints, self.spendable, params, flops_per_token)
        if self.limited:
            return float(min(affordable, self.tokens))
        return float(min(affordable, self.constraints.most_tokens))

    def loss(self, params: Any, tokens: Any) -> Array:
        """Return the law's loss, data repeated where they are too few."""
        return loss_of(self.law, self.constraints, params, tokens)


def split_of(
    law: Law, flops: float, constraints: Constraints, *, level: float, flat_loss: float
) -> Split:
    """Split C; ValueError where constraints and budget contradict each other.

    law: the law that decides
    flops: C of the budget
    constraints: demands on N, D and C
    level: share that the intervals hold
    flat_loss: loss, in the unit of the law, within which all N count as equal
    """
    optimum, form = law.optimum(flops, level), describe_predicting(law)
    law = repeating(law, constraints, tokens=optimum.tokens)
    spendable = (1 - constraints.reserve) * flops
    gives_loss = law.form in FORMS and FORMS[law.form].is_surface
    _refuse_impossible(law, constraints, spendable, optimum, flops)
    if gives_loss:
        params, interval, flat = _searched(law, spendable, constraints, level, flat_loss)
    else:
        params, interval, flat = _allocated(law, flops, spendable, constraints), None, None
    fresh = law.forecast and _is_fresh(constraints, optimum.tokens) and not constraints.reserve
    unmoved = not constraints.given() or fresh
    if unmoved:
        params, interval = optimum.params, optimum.intervals.get("params")
    tokens = float(_tokens_at(law, constraints, spendable, np.array(params)))
    tokens_interval = optimum.intervals.get("tokens")
    if not unmoved:
        tokens_interval = _of_sizes(law, constraints, spendable, interval)
    return Split(
        law=law,
        form=form,
        constraints=constraints,
        flops=flops,
        optimum=optimum,
        params=float(params),
        tokens=tokens,
        interval=interval,
        tokens_interval=tokens_interval,
        flat=flat,
        flat_loss=flat_loss,
    )


def repeating(law: Law, constraints: Constraints, *, tokens: float) -> Law:
    """Return the law with the repetition of data in it, where data repeat.

    law: the law; of an average over forms the one form is taken that knows repetition, or can be
        given it, and that is usable by itself
    constraints: with the unique tokens at hand
    tokens: D of the law's own optimum; where they are at hand and nothing else moves D, no data
        repeat, and the law stays as it is

    Raises ValueError for a law that knows no repetition, unless it is forbidden by max_epochs=1.
    """
    if constraints.unique_tokens is None:
        return law
    if law.forecast and _is_fresh(constraints, tokens):
        return law
    taken = [m for m in law.members if is_usable_alone(law, m.form.name)]
    knowing = [m.form.name for m in taken if "unique_tokens" in m.form.variables]
    if knowing:
        alone = law.of_form(knowing[0])
        return _alone(law, alone, f"{knowing[0]} alone") if law.forecast else alone
    if constraints.max_epochs is not None and constraints.max_epochs <= 1:
        return law
    if law.form == "allocation":
        return law  # one pass, as `_tokens_at` says
    average = law
    if "chinchilla" in (m.form.name for m in taken):
        law = law.of_form("chinchilla")  # of an average, the form that is known with repetition
    if law.forecast:
        raise ValueError(
            "unique_tokens= asks what repeated tokens are worth, and of this law's forms neither"
            " data_constrained nor chinchilla is usable by itself; set max_epochs=1, or fit one of"
            " them to runs of few epochs and plan from it"
        )
    if law.form != "chinchilla":
        raise ValueError(
            f"a law of form {law.form} does not say what repeated tokens are worth; set"
            " max_epochs=1, or take a law of form chinchilla or data_constrained"
        )
    _refuse_repeats_as_fresh(law)
    rates = {k: PUBLISHED[REPEATING].parameters[k] for k in ("R_D", "R_N")}
    draws = law.draws
    if draws is not None:
        draws = np.hstack([draws, np.tile(list(rates.values()), (len(draws), 1))])
    alone = replace(
        law, form="data_constrained", parameters={**law.parameters, **rates}, draws=draws
    )
    rule = "chinchilla alone, with the published worth of repeated tokens"
    return _alone(average, alone, rule) if average.forecast else alone


def _refuse_repeats_as_fresh(law: Law) -> None:
    """Refuse to give repetition to a law that has it already, as fresh tokens of less worth."""
    if any(alarm.code == "repeated_data" for alarm in law.alarms):
        raise ValueError(
            "the law was fitted to repeated tokens as if they were fresh, so the worth of a"
            " repeated token would count twice; set max_epochs=1, or plan from"
            " form=data_constrained or another form that reads unique_tokens"
        )


def _alone(average: Law, alone: Law, rule: str) -> Law:
    """Return the law of one form of an average, whose intervals the other forms widen as before.

    average: the law of all forms
    alone: the law of one of them, which may know repetition by published constants
    rule: which form it is, in words
    """
    assert average.forecast is not None
    own = {"form": alone.form, "parameters": alone.parameters, "draws": alone.draws}
    beside = [
        {**one, "weight": 0.0, "draws": None}
        for one in average.forecast["forms"]
        if one["form"] != alone.form
    ]
    if not any(one["spread_weight"] > 0 for one in beside):
        return alone
    status = {"status": alone.status, "score": None, "spread_weight": 0.0}
    return replace(
        alone, forecast={"rule": rule, "forms": [{**own, **status, "weight": 1.0}, *beside]}
    )


def _is_fresh(constraints: Constraints, tokens: float) -> bool:
    """Return whether no token is seen twice in a plan at the optimum of a law."""
    moved = ("params", "tokens", "max_params", "overtraining", "inference_tokens", "max_memory_gib")
    fixed = any(getattr(constraints, name) is not None for name in moved)
    return not fixed and tokens <= (constraints.unique_tokens or 0.0)


def is_usable_alone(law: Law, form: str) -> bool:
    """Return whether one form of an average could be planned from alone."""
    status = {one["form"]: one["status"] for one in (law.forecast or {}).get("forms", ())}
    return status.get(form, law.status) in USABLE


def loss_of(law: Law, constraints: Constraints, params: Any, tokens: Any) -> Array:
    """Return the loss of N and D without noise."""
    unique = constraints.unique_tokens if "unique_tokens" in _variables(law) else None
    return law.predict(params, tokens, unique_tokens=unique, noise=False, force=True).loss


def compute_reaching(
    law: Law, loss: float, *, most: float, unique_tokens: float | None = None
) -> float | None:
    """Return the C at which the law's optimum has a loss; None where that is above `most`.

    law: the law, whose status does not matter here
    loss: nats per token
    most: the largest C, in FLOPs
    unique_tokens: those at hand, for a law that knows repetition
    """

    def above(log_flops: float) -> float:
        flops = float(np.exp(log_flops))
        best = law.optimum(flops, unique_tokens=unique_tokens, force=True).loss
        return np.inf if best is None else best - loss

    high = np.log(most) + 1e-6
    if above(high) > 0:
        return None
    # Step by step, since some forms have no finite loss far below their data.
    for low in high - np.arange(np.log(STEP), np.log(REACH), np.log(STEP)):
        if above(low) > 0:
            return float(np.exp(float(brentq(above, low, low + np.log(STEP)))))  # type: ignore[arg-type]
    return None


def serving_saving(split: Split) -> float | None:
    """Return the share of FLOPs saved against the training optimum of the same loss, serving too.

    Sardana et al. 2023 (2401.00448) section 2; None where no optimum has that loss.
    """
    served = split.constraints.inference_tokens or 0.0
    loss = float(split.loss(split.params, split.tokens))
    law = replace(split.law, draws=None)
    unique = split.constraints.unique_tokens if "unique_tokens" in _variables(law) else None
    flops = compute_reaching(law, loss, most=split.flops, unique_tokens=unique)
    if flops is None:
        return None
    whole = flops + 2 * law.optimum(flops, unique_tokens=unique, force=True).params * served
    spent = float(law.flops_per_token(split.params)) * split.tokens + 2 * split.params * served
    return 1 - spent / whole


def _variables(law: Law) -> tuple[str, ...]:
    return law.surface.form.variables if law.form in FORMS else ()


def _one_pass(law: Law, constraints: Constraints) -> float:
    """Return the D of one pass where the law cannot value a second, else inf."""
    unique = constraints.unique_tokens
    return unique if unique is not None and law.form == "allocation" else float("inf")


def _before_rising(law: Law, constraints: Constraints, params: Array) -> Array:
    """Return the D of each N past which the loss rises again; inf for a law that cannot rise."""
    unique = constraints.unique_tokens
    if unique is None or not can_rise(law):
        return np.full(np.shape(params), np.inf)
    return tokens_of_least_loss(law, unique, params)


def _affordable(constraints: Constraints, spendable: float, params: Any, per_token: Any) -> Any:
    """Return the D that is left to pay when serving is paid; below 0 where it is not."""
    serving = 2 * np.asarray(params) * (constraints.inference_tokens or 0.0)
    return (spendable - serving) / per_token


def _tokens_at(law: Law, constraints: Constraints, spendable: float, params: Array) -> Array:
    """Return D at each N under C = c(N) D; NaN where it cannot be paid."""
    tokens = _affordable(constraints, spendable, params, law.flops_per_token(params))
    if constraints.tokens is not None:
        return np.where(tokens >= constraints.tokens * BINDS, constraints.tokens, np.nan)
    tokens = np.minimum(tokens, min(constraints.most_tokens, _one_pass(law, constraints)))
    tokens = np.minimum(tokens, _before_rising(law, constraints, params))
    return np.where(tokens > 0, tokens, np.nan)


def _of_sizes(
    law: Law, constraints: Constraints, spendable: float, sizes: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return the ends of D at the ends of an interval of N; None where one cannot be paid."""
    if sizes is None:
        return None
    tokens = _tokens_at(law, constraints, spendable, np.array(sizes))
    return (float(tokens.min()), float(tokens.max())) if np.isfinite(tokens).all() else None


def _refuse_impossible(
    law: Law, constraints: Constraints, spendable: float, optimum: Optimum, flops: float
) -> None:
    params, tokens = constraints.params, constraints.tokens
    cost = float(law.flops_per_token(params or 1.0)) * (tokens or 0.0)
    if params is not None and tokens is not None and cost > spendable:
        raise ValueError(
            f"params={params:g} and tokens={tokens:g} cost {cost:.3g} FLOPs, above"
            f" the {spendable:.3g} that the budget of {flops:.3g} leaves; change one"
        )
    inference = constraints.inference_tokens
    if inference and params is not None and 2 * params * inference >= spendable:
        raise ValueError(
            f"serving {inference:g} tokens with params={params:g} costs"
            f" {2 * params * inference:.3g} FLOPs, all of the {spendable:.3g} at hand; raise the"
            " budget or serve a smaller model"
        )
    if inference and 2 * SPAN[0] * optimum.params * inference >= spendable:
        raise ValueError(
            f"inference_tokens={inference:g} leaves nothing of {spendable:.3g} FLOPs to train with;"
            " raise the budget"
        )


def _refuse_overtraining(params: float, constraints: Constraints) -> None:
    """Refuse a cap below the N that `overtraining` gives at this budget."""
    if params > (constraints.max_params or np.inf):
        raise ValueError(
            f"overtraining={constraints.overtraining:g} asks for {params:.3g} parameters at this"
            f" budget, above max_params={constraints.max_params:g}; raise overtraining, or leave"
            " one of them out"
        )


def _allocated(law: Law, flops: float, spendable: float, constraints: Constraints) -> float:
    """Return N of a law that gives N and D alone."""
    if constraints.inference_tokens is not None:
        raise ValueError(
            f"a law of form {law.form} gives no loss, so it cannot weigh training against serving;"
            " leave inference_tokens out or take a law that predicts loss, as besiroglu2024"
        )
    optimum = law.optimum(spendable)
    params, most = optimum.params, min(constraints.most_tokens, constraints.unique_tokens or np.inf)
    if constraints.overtraining is not None:
        params /= np.sqrt(constraints.overtraining)
        _refuse_overtraining(params, constraints)
    if constraints.tokens is not None:
        params = _size_paying(law, spendable, constraints.tokens)
    elif constraints.params is None and spendable / law.flops_per_token(params) > most:
        params = min(law.optimum(flops).params, _size_paying(law, spendable, most))
    params = params if constraints.params is None else constraints.params
    return float(min(params, constraints.max_params or np.inf))


def _searched(
    law: Law, spendable: float, constraints: Constraints, level: float, flat_loss: float
) -> tuple[float, tuple[float, float] | None, tuple[float, float] | None]:
    """Return N of least loss, its interval over the draws, and the flat interval."""
    free = law.optimum(spendable, level)
    if constraints.params is not None:
        return constraints.params, None, None
    cap = constraints.max_params or np.inf
    if constraints.overtraining is not None:
        scale = 1 / np.sqrt(constraints.overtraining)
        ends = free.intervals.get("params")
        params = float(free.params * scale)
        _refuse_overtraining(params, constraints)
        return params, (ends[0] * scale, ends[1] * scale) if ends else None, None
    sizes = free.params * np.geomspace(*SPAN, GRID)
    sizes = np.unique(np.append(sizes[sizes <= cap], cap if np.isfinite(cap) else []))
    sizes = sizes[np.isfinite(_tokens_at(law, constraints, spendable, sizes))]
    if not len(sizes):
        raise ValueError(
            f"no size can be trained: {_as_text(constraints)} leave nothing affordable within"
            f" {spendable:.3g} FLOPs; raise the budget or relax one of them"
        )
    sizes = _with_edges(law, sizes, constraints, spendable)
    tokens = _tokens_at(law, constraints, spendable, sizes)
    losses = loss_of(law, constraints, sizes, tokens)
    near = sizes[losses <= losses.min() + flat_loss]
    flat = (float(near.min()), float(near.max()))
    return float(sizes[losses.argmin()]), _drawn(law, constraints, sizes, tokens, level), flat


def _size_paying(law: Law, spendable: float, tokens: float, inference: float = 0.0) -> float:
    """Return the N at which C pays just so many tokens, and those to serve."""
    if law.flop_count is None:
        return spendable / (6 * tokens + 2 * inference)

    def beyond(log_params: float) -> float:
        n = np.exp(log_params)
        return float(np.log((law.flops_per_token(n) * tokens + 2 * n * inference) / spendable))

    middle = np.log(spendable / (6 * tokens + 2 * inference))
    return float(np.exp(float(brentq(beyond, middle - WIDE, middle + WIDE, xtol=1e-12))))  # type: ignore[arg-type]


def _with_edges(law: Law, sizes: Array, constraints: Constraints, spendable: float) -> Array:
    """Add the sizes at which a limit on D begins to bind, where the best often lies."""
    limits = [constraints.tokens, constraints.most_tokens, constraints.unique_tokens]
    inference = constraints.inference_tokens or 0.0
    edges = [_size_paying(law, spendable, t, inference) for t in limits if t and np.isfinite(t)]
    inside = [e for e in edges if sizes.min() < e < sizes.max() * 1.02]
    cap = constraints.max_params or np.inf
    return np.unique(np.append(sizes, [min(e, cap) for e in inside]))


def _drawn(
    law: Law, constraints: Constraints, sizes: Array, tokens: Array, level: float
) -> tuple[float, float] | None:
    """Return the interval of the best N over the law's draws."""
    surface = law.surface
    if surface.draws is None:
        return None
    values: dict[str, Any] = {"params": sizes, "tokens": tokens, "flops": 6 * sizes * tokens}
    if constraints.unique_tokens is not None and "unique_tokens" in _variables(law):
        values["unique_tokens"] = np.full_like(sizes, constraints.unique_tokens)
    by_name = surface.named_draws(1, MOST_DRAWS)
    best = sizes[np.argmin(surface.form.predict(by_name, values), axis=1)]
    low, high = np.quantile(best, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _as_text(constraints: Constraints) -> str:
    return " and ".join(f"{k}={v:g}" for k, v in constraints.given().items()) or "the budget"
