"""The next step of a study that is steered to a goal: fit, see where it stands, choose cells.

While the law is not identified (too few cells or trunks, or a fit that is none) no interval is
believed: cells are spread by a prior law to tell all parameters apart. Afterwards all cells that
are still needed are planned at once (`analysis.designing.selection`), in deviations that the
bootstrap's interval calibrates, and the first few of them are the batch: the next fit may know
better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.designing.candidates import Candidate
from analysis.designing.goal import Goal, Standing, allowed_sd, half_width, standing
from analysis.designing.information import Belief, believed
from analysis.designing.selection import MOST, Pick, allot, spread
from analysis.estimation.checks import SPARE_ROWS
from analysis.estimation.fit import fit
from analysis.estimation.fit_alarms import FEWEST_UNITS
from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.runs.table import Runs
from analysis.uncertainty.bootstrap import units_of

START = 12  # cells before the first fit is asked: those of the law twice over, and two
BATCH = 4
ABOVE = 0.8  # of the precision that is left to the parameters where scatter alone is above it
CALIBRATED = (0.25, 16.0)  # variances by bootstrap over those of the linear belief


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
    """What is known and what comes next; `stop` says why nothing does.

    `planned` are all the cells that the goal is expected to need, the batch first; `halves` what
    its half-width is expected to be after each, None while no law is identified.
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

    `runs` are the cells so far, which cost `spent` FLOPs; `law` is their fit where it is there.
    """
    options = options or Options()
    why = ""
    if law is None:
        law, why = fitted(runs, goal, options)
    now = standing(law, goal) if law is not None and not why else None
    ended = ""
    if goal.precision and now is not None and now.half <= goal.precision:
        ended = f"the precision is reached: {now.half:.4g} <= {goal.precision:.4g}"
    elif not candidates:
        ended = "the pool is exhausted"
    if ended:
        return Step(law=law, standing=now, planned=[], halves=[], batch=0, why="", stop=ended)
    left = goal.max_flops - spent if goal.max_flops else np.inf
    table = None if runs is None else runs.table
    if law is not None and now is not None:
        belief = believed(law, candidates, goal, table=table)
        step = _planned(law, now, belief, candidates, goal, spent, left, reached, options)
    else:
        belief = believed(prior, candidates, goal, table=table, loose=True)
        number = max(options.start - (0 if table is None else len(table)), options.batch)
        picks = spread(
            belief, candidates, reached=reached, number=number, budget=left, trunks=FEWEST_UNITS
        )
        told = "cells spread by the prior law, which tell all parameters apart: "
        told += why or "the law has no draws"
        step = Step(law=law, standing=None, planned=picks, halves=[], batch=len(picks), why=told)
    if step.planned:
        return step
    spare = f"{spent:.3g} of {goal.max_flops:.3g} FLOPs are spent, and no candidate costs so little"
    none = f"the budget is: {spare}" if goal.max_flops else "no candidate narrows the interval"
    return replace(step, stop=none)


def fitted(runs: Runs | None, goal: Goal, options: Options) -> tuple[Law | None, str]:
    """Return the fit of the cells so far, and why it is not to be believed, "" where it is."""
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
        resamples=options.resamples,
        level=goal.level,
        hindcast=options.hindcast,
        sensitivity=False,
    )
    return law, "" if law.usable else f"the law of {len(runs)} cells is {law.status}"


def scale_of(belief: Belief, now: Standing) -> float:
    """Return the bootstrap's variance over that of the linear belief."""
    return float(np.clip(now.sd**2 / belief.variance(), *CALIBRATED))


def expected(
    picks: Sequence[Pick], scale: float, *, floor: float, value: float, goal: Goal
) -> list[float]:
    """Return the half-width that is expected after each cell."""
    sds = np.sqrt([scale * p.variance for p in picks])
    return [half_width(float(sd), floor, value=value, goal=goal) for sd in sds]


def taken(picks: Sequence[Pick], number: int, spent: float) -> int:
    """Return how many of the first cells make a batch: it at most doubles what was spent."""
    costs = np.cumsum([p.flops for p in picks[:number]])
    return max(1, int((costs <= spent).sum()))


def _planned(
    law: Law,
    now: Standing,
    belief: Belief,
    candidates: Sequence[Candidate],
    goal: Goal,
    spent: float,
    left: float,
    reached: Mapping[str, float],
    options: Options,
) -> Step:
    scale = scale_of(belief, now)
    sd = allowed_sd(goal, now) if goal.precision else 0.0
    above = bool(goal.precision) and not sd > 0
    if above:  # hindcasts that failed by few cells may succeed with more: act as if they had
        sd = ABOVE * allowed_sd(goal, replace(now, floor=0.0))
    most = options.batch if not sd and not goal.max_flops else MOST
    within = {"reached": reached, "budget": left}
    picks = allot(belief, candidates, wanted=sd**2 / scale, most=most, **within)
    if not picks:  # the parameters are known well enough, what hindcasts add is not
        picks = allot(belief, candidates, most=options.batch, **within)
    halves = expected(picks, scale, floor=now.floor, value=now.value, goal=goal)
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
        batch=taken(picks, options.batch, spent) if picks else 0,
        why=why,
    )


def table_of(cells: Sequence[Candidate], losses: Sequence[float]) -> pd.DataFrame:
    """Return cells that were run as a table; those alone are their own units."""
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
