"""Which rows form=all is fitted to: all, or those near the compute frontier.

Badly tuned runs far from the frontier bend a law of all rows: Huber's objective follows them where
they are many. A plan asks for the loss at the optimum of a larger budget, so the two choices are
compared there: below each cutoff in C every form is fitted to all rows and to the rows near the
frontier, both predict the withheld runs near the frontier, and the averages over forms (weights
score^-4, as in the forecast) are compared by the geometric mean over cutoffs of their RMS errors.
Which rows below a cutoff are near is read from rows of no more compute, never from withheld ones.

All rows stay unless the rows near the frontier leave at most `FAR_GAIN` of the error, or at most
`CLEAR_GAIN` of an error that is beyond chance. All rows know more where the forms hold, and laws of
fewer rows win by chance now and then. `benchmarks/frontier_rows.py` simulates both: sound tables
and tables of badly tuned runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.alarms.of_fit import FAR_GAIN, LEAST_FAR_ERROR
from analysis.forms import FORMS, Array, Form, column
from analysis.solve.objective import Objective, problem_of, residuals
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.residual_spread import MAD
from analysis.solve.solver import minimise
from analysis.validate.form_ranking import (
    EXACT,
    Ranking,
    is_carried_near,
    rank_forms,
    weights_of,
)
from analysis.validate.hindcast import cutoffs, reach_of
from analysis.validate.near_frontier import (
    FEWEST_ROWS,
    FEWEST_TESTED,
    WITHIN,
    is_near_frontier,
    near_frontier,
)

SHARES = (WITHIN, 0.03)  # of the frontier's loss up to which rows may be fitted
# Of 25 sound simulated tables the withheld error of all rows was 1.0 to 2.2 times the scatter, so
# that 3 times is beyond chance, and none changed at a gain of .8 with it; without it two did.
CLEAR_GAIN = 0.8
CHANCE = 3.0
LEAST_LEFT_OUT = 0.1  # share of the rows; Huber's objective withstands fewer bad ones
FEWEST_CUTOFFS = 2  # cutoffs at which the rows near the frontier must have been tested
PLAIN = frozenset(("params", "tokens", "flops"))  # variables of forms that are compared
Errors = Mapping[float, Array]  # by cutoff in C, log predicted over measured loss of withheld runs


@dataclass(frozen=True, kw_only=True)
class RowChoice:
    """Which rows are fitted, and the errors that say so.

    within: share of the frontier's loss up to which rows are fitted, None for all rows
    error_all: withheld error of the average over forms that are fitted to all rows
    error_near: the same of the rows near the frontier
    """

    within: float | None
    error_all: float
    error_near: float


def rank_rows_and_forms(
    table: pd.DataFrame,
    objective: Objective | None,
    *,
    within: float | None = None,
    level: float = 0.9,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> tuple[Ranking, RowChoice | None]:
    """Return the ranking of the forms on the rows that are fitted, and how these were chosen.

    table: the runs
    objective: None for each form's own
    within: share of the frontier's loss up to which rows are fitted; None chooses
    level: of the intervals whose coverage is counted
    seed: of the resamples
    on_progress: takes ("forms", done, total)

    Raises ValueError where no form applies. The choice is None where all rows stay.
    """
    options = {"level": level, "seed": seed, "on_progress": on_progress}
    near = within is not None
    ranking = rank_forms(near_frontier(table, within), objective, near=near, **options)
    choice = None if near else choose_rows(ranking, objective)
    if choice is not None and choice.within is not None:
        rows = near_frontier(table, choice.within)
        of_near = rank_forms(rows, objective, near=True, **options)
        if of_near.is_tested:
            return of_near, choice
    return ranking, None


def choose_rows(ranking: Ranking, objective: Objective | None) -> RowChoice | None:
    """Return which rows larger budgets are predicted best from; None where nothing tells.

    ranking: of the forms, fitted to all rows
    objective: None for each form's own

    Nothing tells where forms read more than N and D: runs of repeated data are far from the
    frontier on purpose.
    """
    table, named = ranking.table, [FORMS[name] for name in ranking.hindcasts]
    if not ranking.is_tested or "flops" not in table:
        return None
    if not all(form.is_surface and set(form.variables) <= PLAIN for form in named):
        return None
    near, along = is_near_frontier(table), reach_of(table, named[0])
    of_all: dict[str, Errors] = {
        name: {
            one.row["cutoff_flops"]: one.error[near[along > one.row["cutoff_flops"]]]
            for one in found
            if one.row["converged"]
        }
        for name, found in ranking.hindcasts.items()
    }
    if compared_error(of_all) < LEAST_FAR_ERROR:
        return None
    own = [form for form in FORMS.values() if form.near_frontier]
    forms = [form for form in [*named, *own] if is_carried_near(form)]
    chance = CHANCE * min(_scatter(table.loc[near], form) for form in own)
    choices = []
    for within in SHARES:
        fitted = is_near_frontier(table, within)
        if (~fitted).mean() < LEAST_LEFT_OUT:
            continue
        of_near = {f.name: errors_near(table, f, objective, fitted, near) for f in forms}
        shared = set.intersection(*(set().union(*of.values()) for of in (of_all, of_near)))
        if len(shared) < FEWEST_CUTOFFS:
            continue
        errors = [
            compared_error({n: {c: e[c] for c in shared & set(e)} for n, e in of.items()})
            for of in (of_all, of_near)
        ]
        gain = CLEAR_GAIN if errors[0] > chance else FAR_GAIN
        chosen = within if errors[1] <= gain * errors[0] else None
        choices.append(RowChoice(within=chosen, error_all=errors[0], error_near=errors[1]))
    return min(choices, key=lambda one: one.error_near / one.error_all, default=None)


def errors_near(
    table: pd.DataFrame, form: Form, objective: Objective | None, fitted: Array, tested: Array
) -> dict[float, Array]:
    """Return the errors of a form that is fitted to some rows, at each cutoff with a minimum.

    table: the runs
    form: the form
    objective: None for the form's own
    fitted: which rows (n,) are fitted below a cutoff
    tested: which rows (n,) are predicted above it
    """
    along, errors = reach_of(table, form), {}
    for cutoff in cutoffs(along):
        below, above = fitted & (along <= cutoff), tested & (along > cutoff)
        if below.sum() < len(form.parameters) + FEWEST_ROWS or above.sum() < FEWEST_TESTED:
            continue
        problem = problem_of(table.loc[below], form, objective or Objective(name=form.objective))
        solution = minimise(problem, n_best=4)
        if not solution.converged[0]:
            continue
        values = dict(
            zip(form.parameters, problem.design.external(solution.theta[:1])[0], strict=True)
        )
        withheld = table.loc[above]
        columns = {v: column(withheld, v) for v in form.variables if v in withheld}
        errors[cutoff] = np.log(form.predict(values, columns) / column(withheld, "loss"))
    return errors


def _scatter(rows: pd.DataFrame, form: Form) -> float:
    """Return the robust deviation of runs about a form; infinite for too few of them."""
    free = len(rows) - len(form.parameters)
    if free < FEWEST_ROWS:
        return np.inf
    problem = problem_of(rows, form, Objective(name=form.objective))
    errors = np.abs(residuals(minimise(problem, n_best=4).theta[:1], problem)[0])
    return MAD * float(np.median(np.sort(errors)[-free:]))  # p residuals are near 0


def compared_error(errors: Mapping[str, Errors]) -> float:
    """Return the withheld error of the average over forms: geometric mean over cutoffs of its RMS.

    errors: of each form
    """
    cuts = sorted(set().union(*errors.values()))
    worst = {c: max(_rms(one[c]) for one in errors.values() if c in one) for c in cuts}
    scores = {
        name: float(np.exp(np.mean([np.log(_rms(one[c]) if c in one else worst[c]) for c in cuts])))
        for name, one in errors.items()
        if one
    }
    weights = weights_of([{"form": name, "score": score} for name, score in scores.items()])
    logs = []
    for c in cuts:
        having = {n: w for n, w in weights.items() if c in errors[n]}
        if having:
            mean = sum(w * errors[n][c] for n, w in having.items()) / sum(having.values())
            logs.append(np.log(_rms(np.asarray(mean))))
    return float(np.exp(np.mean(logs))) if logs else np.inf


def _rms(errors: Array) -> float:
    return max(float(np.sqrt((errors**2).mean())), EXACT) if len(errors) else EXACT
