"""Figures as files beside a law or a backtest: what `plot=true` writes.

A law of N and D gets the report's figures (loss, IsoFLOP profiles, residuals, optimum), any other
law its target against its main variable, and a law with a backtest the errors of withheld runs. A
long table is thinned to `MOST_POINTS` runs, the largest among them. This module imports matplotlib,
which takes time: import it only where a command draws.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimation.checks import prepare_rows
from analysis.figures import charts, check_charts
from analysis.figures.bands import span
from analysis.figures.canvas import LETTERS, standalone
from analysis.forms import FORMS, Array, Form, column
from analysis.forms.average import FittedRange, Member, Surface, average
from analysis.forms.data_constrained import effective
from analysis.laws.form_error import tau_at
from analysis.laws.law import Law
from analysis.number_text import power, short
from analysis.page.contents import CURVE_ROWS, loss_curve
from analysis.page.gallery import (
    Picture,
    allocation_pictures,
    design_pictures,
    fit_pictures,
    loss_pictures,
)
from analysis.solve.objective import Objective
from analysis.validate.hindcast import reach_of
from scaling.schema import read_curve, write_text

BEYOND = 10.0  # times the largest C: how far the law is drawn where it may be extrapolated
MOST_POINTS = 2000
MOST_SERIES = 5
LINEAR = ("kl", "loss")  # main variables that no decades separate
RESIDUALS = ("residuals_tokens_per_param", "residuals_flops")
OWN_UNITS = {
    "reward_model": "loss of the reward model (nats/pair)",
    "reward_model_noiseless": "loss of the reward model (nats/pair)",
    "finetuning": "loss of completions (nats/token)",
    "finetuning_epochs": "loss of completions (nats/token)",
}
LEVEL = 0.9


def write_law_figures(law: Law, table: pd.DataFrame, beside: str | Path) -> list[Path]:
    """Write a law's figures as <stem of law.json>_<name>.svg; returns the paths."""
    return _written(law_figures(law, table), Path(beside))


def write_backtest_figure(
    table: pd.DataFrame, form: Form, tested: Mapping[str, Any], beside: str | Path
) -> list[Path]:
    """Write a backtest's figure as <stem of backtest.json>.svg; nothing if no refit converged."""
    path = Path(beside)
    pictures = backtest_pictures(table, form, tested)
    return [write_text(path.with_suffix(".svg"), standalone(p.svg)) for p in pictures]


def write_design_figure(proposal: Mapping[str, Any], beside: str | Path) -> list[Path]:
    """Write the curve of a design as <stem of design.json>.svg; nothing without expectations."""
    path = Path(beside)
    pictures = design_pictures(
        [(row["total"], row["half"]) for row in proposal["cells"]],
        [(row["total"], row["half"]) for row in proposal["simulated"]],
        quantity=proposal["target"]["quantity"],
        wanted=proposal["target"]["precision"] or None,
        unit=proposal["target"].get("unit", "nats"),
    )
    return [write_text(path.with_suffix(".svg"), standalone(p.svg)) for p in pictures]


def law_figures(law: Law, table: pd.DataFrame) -> list[Picture]:
    """Return the figures that a law and its runs allow."""
    level = (law.intervals or {}).get("level", LEVEL)
    form = FORMS.get(law.form)
    fitted = table if form is None else prepare_rows(table, form, Objective(), "none")
    points = thinned(table)
    if form is not None and not form.is_surface:
        others = points if len(fitted) < len(table) else None
        pictures = [target_picture(law, thinned(fitted), others, level=level)]
    elif "loss" not in table:  # optima that were read
        pictures = allocation_pictures(law, points, None, level=level, beyond=BEYOND)
    elif form is not None or "k_params" in law.allocation:
        pictures = loss_pictures(law, points, training(table), level=level, beyond=BEYOND)
        pictures += [p for p in fit_pictures(law, points) if p.name in RESIDUALS]
        pictures += allocation_pictures(law, points, None, level=level, beyond=BEYOND)
    else:
        return []
    if law.backtest and form is not None:
        pictures += backtest_pictures(fitted, form, law.backtest)
    return pictures


def backtest_pictures(table: pd.DataFrame, form: Form, tested: Mapping[str, Any]) -> list[Picture]:
    """Draw the error of each withheld run against distance, from a backtest of `hindcasts`."""
    rows = [row for row in tested["rows"] if row["converged"]]
    if not rows:
        return []
    letter = LETTERS.get("flops" if "flops" in table else form.variables[0], form.variables[0])
    errors = withheld(table, form, rows)
    notes = {
        row["cutoff_flops"]: (
            f"fitted to {letter} = {power(row['cutoff_flops'])}: rms error"
            f" {row['rms_relative_error']:.2%}, {row['coverage']:.0%} covered"
        )
        for row in rows
    }
    h = np.linspace(0.0, np.log(errors["distance"].max()), 60)
    tau = tau_at(tested["tau"], h)
    line = pd.DataFrame({"x": np.exp(h), "y": 0.0, "lo": -tau, "hi": tau})
    return [
        Picture(
            name="backtest",
            svg=check_charts.backtest(thinned(errors, "distance"), notes, line, letter=letter),
            caption="Relative error of withheld runs; the band is what intervals add for distance.",
        )
    ]


def withheld(table: pd.DataFrame, form: Form, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return cutoff, distance and error, log(predicted / measured), of every withheld run."""
    along = reach_of(table, form)
    parts = []
    for row in rows:
        above = table.iloc[np.flatnonzero(along > row["cutoff_flops"])]
        surface = _surface_of(row, form)
        values = {v: column(above, v) for v in surface.form.variables if v in above}
        predicted = surface.form.predict(surface.parameters, values)
        beyond = reach_of(above, form)
        parts.append(
            pd.DataFrame(
                {
                    "cutoff": row["cutoff_flops"],
                    "distance": beyond * row["distance"] / beyond.max(),
                    "error": np.log(predicted / column(above, form.target)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _surface_of(row: Mapping[str, Any], form: Form) -> Surface:
    """Return what a hindcast predicted with: the form, or the average over several."""
    if "forms" not in row:
        return Surface(form=form, parameters=row["parameters"], draws=None)
    return average(
        [
            Member(
                form=FORMS[one["form"]],
                parameters=one["parameters"],
                draws=None,
                weight=one["weight"],
            )
            for one in row["forms"]
        ],
        FittedRange.read(row.get("fitted"), "law.json"),
    )


def target_picture(
    law: Law, table: pd.DataFrame, others: pd.DataFrame | None, *, level: float
) -> Picture:
    """Draw the target of a form that is no surface against its main variable, with bands.

    `table` holds the runs fitted, `others` all where those are a part; at most `MOST_SERIES` values
    of a second variable have a curve. Epochs are drawn as the fresh examples they are worth.
    """
    form = FORMS[law.form]
    main, second = _main_and_second(form)
    fixed, note = {}, ""
    if "epochs" in form.variables:
        fixed, note = {"epochs": 1.0}, "; examples are those that the passes over them are worth"
        table = table.assign(examples=fresh_examples(law, table), epochs=1.0)
    renamed = law.inputs.get("columns", {}).get(second, "").replace("_", " ")
    series = _series(table, second, renamed or "N")
    bands, labels = {}, np.full(len(table), None, dtype=object)
    for name, value in series.items():
        here = np.full(len(table), True) if value is None else column(table, second) == value
        labels[here] = name
        x = _grid(column(table, main)[here], linear=main in LINEAR)
        grid = pd.DataFrame({main: x, **({} if value is None else {second: value}), **fixed})
        prediction = law.predict_table(grid, level, noise=False, force=True)
        ends = {"lo": prediction["low"], "hi": prediction["high"]} if "low" in prediction else {}
        bands[name] = pd.DataFrame({"x": x, "y": prediction[form.target], **ends})
    return Picture(
        name=form.target,
        svg=charts.target(
            table.assign(series=labels),
            bands,
            x=main,
            y=form.target,
            y_label=OWN_UNITS.get(form.name, ""),
            others=others,
            logx=main not in LINEAR,
        ),
        caption=f"{form.formula}, with the {100 * level:g}% interval of its mean{note}.",
    )


def fresh_examples(law: Law, table: pd.DataFrame) -> Array:
    """Return how many fresh examples the epochs over each row's are worth (n,)."""
    examples, epochs = column(table, "examples"), column(table, "epochs")
    return effective(examples * epochs, examples, law.parameters["R"])


def thinned(table: pd.DataFrame, along: str = "flops") -> pd.DataFrame:
    """Return at most `MOST_POINTS` rows, drawn at random, the largest always among them."""
    if len(table) <= MOST_POINTS:
        return table
    rows = table.sample(MOST_POINTS, random_state=0).index
    return table.loc[rows.union([table[along].idxmax()])] if along in table else table.loc[rows]


def training(table: pd.DataFrame) -> pd.DataFrame:
    """Return the curves that a study's table points at: run, params, tokens, flops, loss."""
    parts = []
    for row in table.to_dict(orient="records") if "curve" in table else []:
        if not isinstance(row["curve"], str):
            continue
        curve = loss_curve(read_curve(Path(row["curve"])))
        step = max(1, len(curve) // CURVE_ROWS)
        parts.append(curve.iloc[::step].assign(run=row["run"], params=row["params"]))
    names = ["tokens", "flops", "loss", "run", "params"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def _written(pictures: list[Picture], beside: Path) -> list[Path]:
    return [
        write_text(beside.with_name(f"{beside.stem}_{p.name}.svg"), standalone(p.svg))
        for p in pictures
    ]


def _main_and_second(form: Form) -> tuple[str, str]:
    """Return the variable on the axis and the one that tells curves apart, or ""."""
    needed = [v for v in form.variables if v not in form.optional]
    if "params" in needed and len(needed) > 1:
        return next(v for v in needed if v != "params"), "params"
    return needed[0], ""


def _series(table: pd.DataFrame, second: str, letter: str) -> dict[str, float | None]:
    """Return {legend: value of the second variable}: one curve each, five values at most."""
    if not second:
        return {"the law": None}
    values = np.unique(column(table, second))
    at = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_SERIES)).round())
    return {f"{letter} = {short(values[int(i)])}": float(values[int(i)]) for i in at}


def _grid(values: Array, *, linear: bool) -> Array:
    low, high = float(values.min()), float(values.max())
    if linear:
        margin = 0.05 * (high - low)
        return np.linspace(max(low - margin, low / 2), high + margin, 80)
    return span(low, high)
