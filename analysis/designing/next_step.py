"""The next step of a study that a design steers: fit, compare with the goal, select cells.

While the law is not identified (too few cells or trunks, or a fit that is not usable) its interval
is not used: cells are spread by a prior law, so that they tell all parameters apart. Afterwards all
cells that are still needed are planned at once (`analysis.designing.selection`), with variances
that the bootstrap's interval calibrates. The first few of them are the batch, because the next fit
may know better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.designing.candidates import Candidate
from analysis.designing.goal import Goal, Standing, allowed_sd, half_width, standing
from analysis.designing.information import Evidence, evidence_of, information_of
from analysis.designing.selection import MOST, Pick, select, spread
from analysis.estimation.checks import SPARE_ROWS
from analysis.estimation.fit import fit
from analysis.estimation.fit_alarms import FEWEST_UNITS
from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.runs.table import Runs
from analysis.uncertainty.bootstrap import units_of
from analysis.validate.hindcast import tau_knots

START = 12  # cells before the first fit: twice the parameters of a law of five, and two
BATCH = 4  # cells of a batch
ABOVE = 0.8  # share of the precision that the parameters get where scatter alone is above it
CALIBRATED = (0.25, 16.0)  # least and most of the bootstrap's variance over the linear one


@dataclass(frozen=True, kw_only=True)
class Options:
    """How many cells start, how many a batch has, how laws are fitted."""

    start: int = START
    batch: int = BATCH
    form: str = "chinchilla"
    resamples: int = 1000
    hindcast: bool = True


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where the study stands and which cells come next; `stop` says why none do.

    `planned` are all the cells that the goal is expected to need, the batch first. `halves` are the
    half-widths that are expected after each of them, [] while no law is identified.
    """

    law: Law | None
    standing: Standing | None
    planned: list[Pick]
    halves: list[float]
    batch: int
    why: str
    stop: str = ""


def next_step(
    runs: Runs | None,
    candidates: Sequence[Candidate],
    goal: Goal,
    *,
    prior: Law,
    spent: float,
    reached: Mapping[str, float],
    options: Options | None = None,
    law: Law | None = None,
) -> Step:
    """Return the next batch among the candidates, or why there is none.

    runs: the cells so far, None before the first
    candidates: the cells that may run
    goal: target, precision and budget
    prior: the law that spreads cells while none is identified
    spent: FLOPs of the cells so far
    reached: tokens up to which each trunk is trained already
    options: sizes of start and batch, and how laws are fitted
    law: the fit of the cells so far, None to fit here
    """
    options = options or Options()
    why = ""
    if law is None:
        law, why = fit_if_identified(runs, goal, options)
    now = standing(law, goal) if law is not None and not why else None
    stop = ""
    if goal.precision and now is not None and now.half <= goal.precision:
        stop = f"the precision is reached: {now.half:.4g} <= {goal.precision:.4g}"
    elif not candidates:
        stop = "the pool is exhausted"
    if stop:
        return Step(law=law, standing=now, planned=[], halves=[], batch=0, why="", stop=stop)
    unspent = goal.max_flops - spent if goal.max_flops else np.inf
    table = None if runs is None else runs.table
    if law is not None and now is not None:
        information = evidence_of(law, candidates, goal, table=table)
        step = _planned(law, now, information, candidates, goal, spent, unspent, reached, options)
    else:
        information = information_of(prior, candidates, goal, table=table, is_prior=True)
        number = max(options.start - (0 if table is None else len(table)), options.batch)
        picks = spread(
            information,
            candidates,
            reached=reached,
            number=number,
            budget=unspent,
            trunks=FEWEST_UNITS,
        )
        reason = "cells spread by the prior law, which tell all parameters apart: "
        reason += why or "the law has no draws"
        step = Step(law=law, standing=None, planned=picks, halves=[], batch=len(picks), why=reason)
    if step.planned:
        return step
    budget = f"{spent:.3g} of {goal.max_flops:.3g} FLOPs, and no candidate costs so little"
    none = (
        f"the budget is spent: {budget}" if goal.max_flops else "no candidate narrows the interval"
    )
    return replace(step, stop=none)


def fit_if_identified(runs: Runs | None, goal: Goal, options: Options) -> tuple[Law | None, str]:
    """Return the fit of the cells so far, and why it identifies no law, "" where it does."""
    form = FORMS[options.form]
    needed = max(options.start, len(form.parameters) + SPARE_ROWS)
    if runs is None or len(runs) < needed:
        return None, f"{0 if runs is None else len(runs)} of the {needed} cells that a fit needs"
    units = units_of(runs.table)
    if units.count < FEWEST_UNITS:
        return None, f"{units.count} independent {units.name}s of the {FEWEST_UNITS} needed"
    flat = [v for v in form.variables if v in runs.table and not np.ptp(runs.table[v]) > 0]
    if flat:
        return None, f"all cells have the same {flat[0]}"
    law = fit(
        runs,
        options.form,
        prior="none",  # the cells are chosen by what they tell without one
        resamples=options.resamples,
        level=goal.level,
        hindcast=options.hindcast,
        sensitivity=False,
    )
    law = trusting_the_form(law)
    return law, "" if law.usable else f"the law of {len(runs)} cells is {law.status}"


def trusting_the_form(law: Law) -> Law:
    """Return the law without errors of its form that no cells narrow or that chance explains."""
    backtest = law.backtest
    if backtest is not None and not law.inputs.get("confirmations"):
        backtest = {**backtest, "tau": tau_knots(backtest["rows"], by_chance=False)}
    return replace(law, error_growth=0.0, backtest=backtest)


def scale_of(information: Evidence, now: Standing) -> float:
    """Return the bootstrap's variance over the linear one."""
    return float(np.clip(now.sd**2 / information.variance(), *CALIBRATED))


def expected_halves(
    picks: Sequence[Pick], scale: float, *, floor: float, value: float, goal: Goal
) -> list[float]:
    """Return the half-width that is expected after each cell.

    picks: the cells in the order in which they run
    scale: the bootstrap's variance over the linear one
    floor: deviation that more cells do not reduce
    value: the target's value
    goal: the target, with its level
    """
    sds = np.sqrt([scale * p.variance for p in picks])
    return [half_width(float(sd), floor, value=value, goal=goal) for sd in sds]


def batch_size(picks: Sequence[Pick], number: int, spent: float) -> int:
    """Return how many of the first cells make a batch: one that at most doubles the FLOPs spent."""
    costs = np.cumsum([p.flops for p in picks[:number]])
    return max(1, int((costs <= spent).sum()))


def _planned(
    law: Law,
    now: Standing,
    information: Evidence,
    candidates: Sequence[Candidate],
    goal: Goal,
    spent: float,
    unspent: float,
    reached: Mapping[str, float],
    options: Options,
) -> Step:
    """Return the cells that an identified law still needs, the batch first."""
    scale = scale_of(information, now)
    sd = allowed_sd(goal, now) if goal.precision else 0.0
    above = bool(goal.precision) and not sd > 0
    if above:  # hindcasts that failed by few cells may succeed with more: act as if they had
        sd = ABOVE * allowed_sd(goal, replace(now, floor=0.0))
    most = options.batch if not sd and not goal.max_flops else MOST
    within = {"reached": reached, "budget": unspent}
    picks = select(information, candidates, limit=sd**2 / scale, most=most, **within)
    if not picks:  # the parameters are known well enough, what hindcasts add is not
        picks = select(information, candidates, most=options.batch, **within)
    halves = expected_halves(picks, scale, floor=now.floor, value=now.value, goal=goal)
    why = f"the largest drop of variance per FLOP of {len(candidates)} candidates"
    if above:
        bare = half_width(0.0, now.floor, value=now.value, goal=goal)
        why += f"; scatter and hindcasts alone are {bare:.3g}, more than the precision asked for"
    elif goal.precision and halves and halves[-1] > 1.001 * goal.precision:
        why += f"; pool and budget end at an expected {halves[-1]:.3g}"
    return Step(
        law=law,
        standing=now,
        planned=picks,
        halves=halves,
        batch=batch_size(picks, options.batch, spent) if picks else 0,
        why=why,
    )


def table_of(cells: Sequence[Candidate], losses: Sequence[float]) -> pd.DataFrame:
    """Return cells with their losses as a table; a cell trained alone is a unit of its own."""
    rows = [
        {
            "run": c.name,
            "params": c.params,
            "tokens": c.tokens,
            "loss": loss,
            "flops": c.flops,
            "trunk": c.trunk,
            "seed": c.seed,
        }
        for c, loss in zip(cells, losses, strict=True)
    ]
    return pd.DataFrame(rows)
