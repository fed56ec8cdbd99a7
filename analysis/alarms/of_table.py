"""Alarms about a table of runs: what is wrong with its design, its units or single rows.

Each alarm is a code and one sentence that also says what to do. These alarms look at N, D, C and L;
the alarm about the residuals of a fit is here too, as a trend in them is one in C and D/N.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from analysis.alarms.alarm import Alarm, named_rows
from analysis.alarms.loss_units import perplexity_alarm
from analysis.alarms.outliers import ODD_COUNT, Outlier, odd_counts, outliers
from analysis.alarms.units import FEWEST_IN_UNIT, over_6nd, unit_alarms, wrong_unit_alarm
from analysis.forms import Array, column
from scaling.app.quoting import override

RAY_SPREAD = 0.15  # deviation of log D about a line in log N (a factor of 1.16) of a single ray
NARROW_SPREAD = 0.7  # deviation of log D/N (a factor of 2) below which exponents seldom separate
FEWEST_BUDGETS = 3  # budgets, sizes and token counts that a law needs at least
SAME_BUDGET = float(np.log(1.25))  # gap of log C between two budgets; runs of one jitter less
MOST_OUTLIERS_SHOWN = 3  # outliers whose distance and cause are written; the others are named
LEAST_SPAN = 10.0  # largest C over smallest C that a law needs
COUNT_FACTOR = 1.5  # C over 6ND beyond it, or varying by its square, counts other FLOPs
MOST_EPOCHS = 4.0  # beyond, a repeated token is worth less than a fresh one (Muennighoff 2023)
TREND_P, TREND_R2 = 1e-4, 0.25  # p-value below, and share of variance above, which is a trend
BITS = float(-np.log(np.log(2)))  # log of bits per nat
BITS_WIDTH = 0.03  # how far the step between two groups of losses may be from BITS
BITS_GAIN = 4.0  # factor by which the step must lower the residuals' deviation
FEWEST_LEVELS = {"epochs": 2}  # values of a variable that needs fewer than FEWEST_BUDGETS
FEWEST_TEST_BLOCKS = 10  # independent blocks of test text that a standard error needs
FEWEST_ROWS = 14  # rows that a quadratic surface in log C and log D/N needs


def table_alarms(table: pd.DataFrame, inputs: Mapping[str, Any] | None = None) -> list[Alarm]:
    """Return what is wrong with the design or the units of a table of runs.

    table: the runs
    inputs: what the table was read from and how, as in law.json; the units of a study's records are
        known and not checked
    """
    inputs = inputs or {}
    of_records = isinstance(inputs.get("sha256"), Mapping)  # a file has one hash, not one a record
    units = [] if of_records else unit_alarms(table, inputs.get("columns", {}))
    bits = None if of_records else _bits_among_nats(table)
    mixed_units = bits is not None or any(alarm.code == "mixed_units" for alarm in units)
    alarms = [
        _single_ray_alarm(table),
        _too_few_budgets(table),
        *units,
        None if of_records else perplexity_alarm(table),
        bits,
        None if mixed_units else _outlier_rows(table),
        _duplicate_rows(table),
        None if mixed_units else _count_disagrees(table),
        _repeated_data(table, inputs),
        _undercooled_runs(table),
        _few_test_blocks(inputs),
    ]
    return [alarm for alarm in alarms if alarm]


def stage_alarms(table: pd.DataFrame, variables: Sequence[str]) -> list[Alarm]:
    """Return what is wrong with the table of a later stage: too few values of a variable."""
    levels = {v: len(np.unique(column(table, v))) for v in variables}
    few = {v: n for v, n in levels.items() if n < FEWEST_LEVELS.get(v, FEWEST_BUDGETS)}
    if not few:
        return []
    counts = " and ".join(f"{n} {v}" for v, n in few.items())
    sentence = (
        f"The runs have {counts} apart: a law needs at least {FEWEST_BUDGETS} of each variable"
        f" ({FEWEST_LEVELS['epochs']} of epochs)."
    )
    return [Alarm(code="too_few_levels", sentence=sentence)]


def residual_alarms(table: pd.DataFrame, residuals: Array) -> list[Alarm]:
    """Return an alarm where the residuals log Lhat - log L (n,) follow C and D/N."""
    alarm = _residual_trend(table, residuals)
    return [alarm] if alarm else []


def is_ray(table: pd.DataFrame) -> bool:
    """Return whether D follows N along one line in logs, so that no fit separates their terms."""
    x, y = np.log(table["params"].to_numpy()), np.log(table["tokens"].to_numpy())
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return True
    slope, intercept = np.polyfit(x - x.mean(), y - y.mean(), 1)
    about_y = (y - y.mean()) - slope * (x - x.mean()) - intercept
    return bool(slope > 0 and about_y.std() < RAY_SPREAD)


def _single_ray_alarm(table: pd.DataFrame) -> Alarm | None:
    if not is_ray(table):
        return None
    ratio = (table["tokens"] / table["params"]).median()
    return Alarm(
        code="single_ray",
        sentence=f"All runs lie along one line D ~ N (near {ratio:.3g} tokens per parameter), "
        "which cannot tell the terms in N and D apart: add runs from 1/8 to 8 times that ratio.",
    )


def _too_few_budgets(table: pd.DataFrame) -> Alarm | None:
    flops = np.log(column(table, "flops"))
    span = float(np.exp(np.ptp(flops)))
    levels = _budgets(flops)
    sizes, horizons = (len(np.unique(column(table, v))) for v in ("params", "tokens"))
    if span >= LEAST_SPAN and min(levels, sizes, horizons) >= FEWEST_BUDGETS:
        return None
    return Alarm(
        code="too_few_budgets",
        sentence=f"{levels} budgets over a {span:.3g}-fold span of C, {sizes} sizes and {horizons} "
        f"token counts: a law needs at least {FEWEST_BUDGETS} of each over a tenfold span of C.",
    )


def _budgets(log_flops: Array) -> int:
    """Count the budgets, which are groups of C; a wide group counts once for each doubling."""
    ordered = np.sort(log_flops)
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > SAME_BUDGET) + 1)
    return sum(1 + int((g[-1] - g[0]) / np.log(2)) for g in groups)


def _outlier_rows(table: pd.DataFrame) -> Alarm | None:
    """Name the outliers, what would explain each and how they change the law."""
    odd = outliers(table)
    if not odd.rows:
        return None
    descriptions = "; ".join(_describe(table, o) for o in odd.rows[:MOST_OUTLIERS_SHOWN])
    others = odd.rows[MOST_OUTLIERS_SHOWN:]
    more = f"; {named_rows(table, np.array([o.row for o in others]), most=10)}" if others else ""
    change = ""
    if odd.exponent is not None:
        change = f", without them a = {odd.exponent[1]:.3f} instead of {odd.exponent[0]:.3f}"
    return Alarm(
        code="outlier_rows",
        sentence=f"{len(odd.rows)} of {len(table)} rows do not belong to the others ({descriptions}"
        f"{more}, counted from 1){change}: check and repair them, or leave them out with where=.",
    )


def _describe(table: pd.DataFrame, outlier: Outlier) -> str:
    where = named_rows(table, np.array([outlier.row]))
    if outlier.distance is None:
        return f"{where}: {outlier.slip}"
    off = f"{where}: {outlier.distance:.0f} standard deviations off their law"
    return f"{off}, {outlier.slip}" if outlier.slip else off


def _bits_among_nats(table: pd.DataFrame) -> Alarm | None:
    """Find rows, or groups, whose losses are in bits while the others are in nats.

    log L is modelled as a quadratic in log C and log D/N plus a step for some rows. The rows and
    the surface are fitted in turn. Only a step of the factor between bits and nats counts, and only
    if it leaves far smaller residuals.
    """
    if len(table) < FEWEST_ROWS:
        return None
    surface, loss = _trends(table), np.log(column(table, "loss"))
    residual = loss - surface @ np.linalg.lstsq(surface, loss, rcond=None)[0]
    labels = [pd.factorize(table["group"])[0]] if "group" in table else []
    starts = [residual > 0, residual > residual.std(), loss > np.median(loss)]
    starts += [residual > np.median(residual) + BITS / 2]
    starts += [codes == code for codes in labels for code in range(min(codes.max() + 1, 20))]
    spread = residual.std()
    for rows in starts:
        step, high, errors = _fit_step(surface, loss, rows)
        few = min(high.sum(), (~high).sum()) < FEWEST_IN_UNIT
        if not few and abs(step - BITS) < BITS_WIDTH and errors.std() * BITS_GAIN < spread:
            return wrong_unit_alarm(table, "loss", "bits", "multiply them by ln 2 = 0.6931", high)
    return None


def _fit_step(surface: Array, loss: Array, high: Array) -> tuple[float, Array, Array]:
    """Return the step, its rows and the residuals; rows and surface are improved in turn."""
    step, errors = 0.0, loss
    for _ in range(30):
        if not 0 < high.sum() < len(high):
            return 0.0, high, loss
        design = np.column_stack([surface, high])
        fit = np.linalg.lstsq(design, loss, rcond=None)[0]
        errors, step = loss - design @ fit, float(fit[-1])
        if step < 0:
            high = ~high
            continue
        above = (loss - surface @ fit[:-1]) > max(step, BITS / 2) / 2
        if (above == high).all():
            break
        high = above
    return step, high, errors


def _trends(table: pd.DataFrame) -> Array:
    """Return 1, c, m, c^2, m^2, cm of standardised c = log C and m = log D/N: (n, 6)."""
    c = np.log(column(table, "flops"))
    m = np.log(column(table, "tokens") / column(table, "params"))
    c, m = ((v - v.mean()) / max(v.std(), 1e-12) for v in (c, m))
    return np.stack([np.ones(len(c)), c, m, c * c, m * m, c * m], axis=1)


def _duplicate_rows(table: pd.DataFrame) -> Alarm | None:
    """Find copies of rows; a run with another seed and the same rounded loss is no copy."""
    columns = {
        name: np.round(np.log(column(table, name)), 6) for name in ("params", "tokens", "loss")
    }
    seed = {"seed": table["seed"].to_numpy()} if "seed" in table else {}
    copies = pd.DataFrame({**columns, **seed}).duplicated().to_numpy()
    if not copies.any():
        return None
    return Alarm(
        code="duplicate_rows",
        sentence=f"{copies.sum()} rows ({named_rows(table, copies)}, counted from 1) repeat "
        "another row's params, tokens and loss and count twice: drop them, or give them a weight "
        "column.",
    )


def _count_disagrees(table: pd.DataFrame) -> Alarm | None:
    over = over_6nd(table)
    over = over[~odd_counts(over)]
    low, middle, high = np.quantile(over, [0, 0.5, 1])
    factor = max(middle, 1 / middle)
    if factor < COUNT_FACTOR and high / low < COUNT_FACTOR**2:
        return None
    fact = f"C is not near 6ND: it is {low:.3g} to {high:.3g} times 6ND"
    if max(high, 1 / low) > ODD_COUNT:
        sentence = f"{fact}, and no unit of compute explains that: check how flops was computed."
    else:
        sentence = (
            f"{fact}, so optima at C = 6ND are not those at equal counted FLOPs; choose the count= "
            "that multiplies, or read a from IsoFLOP."
        )
    return Alarm(code="count_disagrees", sentence=sentence)


def _repeated_data(table: pd.DataFrame, inputs: Mapping[str, Any]) -> Alarm | None:
    """Say that data repeat, and what to type: where= on a column of epochs, or a form."""
    if "unique_tokens" not in table:
        return None
    epochs = column(table, "tokens") / column(table, "unique_tokens")
    repeated = int((epochs > MOST_EPOCHS).sum())
    if not repeated:
        return None
    return Alarm(
        code="repeated_data",
        sentence=f"{repeated} runs pass more than {MOST_EPOCHS:g} times over their data (up to "
        f"{epochs.max():.3g}), which a law of fresh tokens mistakes for a small beta: "
        f"{_without_repeated(inputs)}",
    )


def _without_repeated(inputs: Mapping[str, Any]) -> str:
    """Return what to type: a condition that where= can read, which has no arithmetic."""
    model = "form=data_constrained, which says what repeated tokens are worth"
    if "epochs_column" not in inputs:
        return (
            f"fit {model}; where= has no arithmetic, so add a column of the passes, as epochs, to"
            f" leave them out with where='epochs <= {MOST_EPOCHS:g}'."
        )
    condition = f"{inputs['epochs_column']} <= {MOST_EPOCHS:g}"
    if inputs.get("where"):
        condition = f"({inputs['where']}) and {condition}"
    return f"leave them out with {override('where', condition)}, or fit {model}."


def _undercooled_runs(table: pd.DataFrame) -> Alarm | None:
    """Name the runs whose records say that they ended at too high a learning rate."""
    hot = table["undercooled"].eq(True).to_numpy() if "undercooled" in table else np.zeros(0, bool)
    if not hot.any():
        return None
    return Alarm(
        code="undercooled",
        sentence=f"{hot.sum()} runs ({named_rows(table, hot)}) ended before their "
        "learning rate was lowered, so their loss is too high by an amount that depends on size: "
        "decay over a tenth of the steps or more, or leave them out with where=.",
    )


def _few_test_blocks(inputs: Mapping[str, Any]) -> Alarm | None:
    """Say that the test loss of a study is that of few independent blocks of text."""
    blocks = inputs.get("test_blocks", FEWEST_TEST_BLOCKS)
    if blocks >= FEWEST_TEST_BLOCKS:
        return None
    return Alarm(
        code="few_test_blocks",
        sentence=f"The test loss is of {blocks} independent blocks of text, fewer than "
        f"{FEWEST_TEST_BLOCKS}: the level of the law depends on which they are, and no interval "
        "holds that; add text, or raise data.test_share.",
    )


def _residual_trend(table: pd.DataFrame, residuals: Array) -> Alarm | None:
    n = len(residuals)
    if n < FEWEST_ROWS or residuals.std() < 1e-7:
        return None
    trends = _trends(table)
    limit = 4 * np.median(np.abs(residuals))
    clipped = np.clip(residuals, -limit, limit)
    rest = clipped - trends @ np.linalg.lstsq(trends, clipped, rcond=None)[0]
    r2 = 1 - rest.var() / clipped.var()
    statistic = (r2 / 5) / ((1 - r2) / (n - 6))
    if fdtrc(5, n - 6, statistic) > TREND_P or r2 < TREND_R2:
        return None
    return Alarm(
        code="residual_trend",
        sentence=f"Residuals follow C and D/N (R2 = {r2:.2f}): the form or the tuning changes with "
        "scale, so compare form= options and fit without the smallest runs.",
    )
