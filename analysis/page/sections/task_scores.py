"""Laws of task scores over a study's models: loss against compute, then accuracy against loss.

Two steps, as Bhagia et al. 2024 (2412.04403) and Gadre et al. 2024 (2403.08540): the bits per byte
of a task's right answers follow [E +] k C^-x over the models that no cheaper one beats, and the
error is a sigmoid of those bits from chance (`downstream_accuracy`) over all models. A task has no
second law, and an alarm says so, where no model is shown to be above chance, or where fewer bits
are not shown to give more right answers. A direct law of accuracy in compute takes the place of the
two steps where it predicts withheld larger models better (`analysis.page.sections.direct_law`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis.estimation.fit import fit
from analysis.estimation.power_laws import frontier_runs
from analysis.figures import run_charts
from analysis.figures.bands import span
from analysis.figures.canvas import LABELS
from analysis.forms import FORMS, Array, column
from analysis.laws.law import Law
from analysis.number_text import interval, number
from analysis.page.gallery import Picture
from analysis.page.sections.direct_law import Choice, choice_of
from analysis.page.tables import Grid, Row
from analysis.solve.objective import Objective

LEVEL = 0.9
RESAMPLES = 300
EVIDENCE = 0.95  # that the best of all models is above chance, each tested at its share
LEAST_ERROR = 0.5  # right answers, for the standard error of none or of all
LOSS_FORMS = ("power_flops_offset", "power_flops")
SPARE_ROWS = 2
BITS = "bits per byte"
WITHOUT = {"at_chance": "is at chance", "no_trend": "does not rise as their loss falls"}
MOST_TASKS = 6  # of a figure: as many as there are colours


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A task's scores over models (params, flops, loss in bits/byte, error, error_se), its laws."""

    task: str
    points: pd.DataFrame
    chance: float
    without: str  # why there can be no law of the accuracy: at_chance, no_trend, or empty
    loss_law: Law | None
    accuracy_law: Law | None
    choice: Choice | None = None  # two steps or a direct law, None where nothing can be withheld


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the laws say of a run: bits per byte and accuracy, each with its interval."""

    bits: float
    bits_interval: tuple[float, float]
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None


def scores_of(evaluations: Sequence[dict[str, Any]]) -> list[Scores]:
    """Fit every task of a study's evaluated cells; a task of too few models has no laws."""
    cells = [v for v in evaluations if v["stage"] == "pretrain" and not v["final"]]
    tasks = sorted({task for v in cells for task in v["tasks"]})
    return [_scores(task, [v for v in cells if task in v["tasks"]]) for task in tasks]


def _scores(task: str, cells: Sequence[dict[str, Any]]) -> Scores:
    points = pd.DataFrame([_point(v, v["tasks"][task]) for v in cells])
    if any(v.get("trunk") is None for v in cells):
        points = points.drop(columns="trunk")
    chance = float(cells[0]["tasks"][task].get("chance", 0.0))
    without = "" if rises(points) else "no_trend"
    without = without if is_above_chance(points, chance) else "at_chance"
    return Scores(
        task=task,
        points=points,
        chance=chance,
        without=without,
        loss_law=_loss_law(points),
        accuracy_law=None if without else _accuracy_law(points, chance),
        choice=None if without else choice_of(points, chance, resamples=RESAMPLES, level=LEVEL),
    )


def _point(model: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    n = score["n"]
    share = np.clip(score["acc"], LEAST_ERROR / n, 1 - LEAST_ERROR / n)
    return {
        "run": model["run_id"],
        "params": model["params"]["with_head"],
        "tokens": model["tokens"],
        "flops": model["flops"],
        "trunk": model.get("trunk"),
        "loss": score["bits_per_byte"],
        "error": 1 - score["acc"],
        "error_se": max(score["acc_se"], float(np.sqrt(share * (1 - share) / n))),
    }


def is_above_chance(points: pd.DataFrame, chance: float) -> bool:
    """Tell whether the best model is above chance, as the best of so many (Bonferroni)."""
    z = (1 - column(points, "error") - chance) / column(points, "error_se")
    return bool(z.max() > ndtri(1 - (1 - EVIDENCE) / len(z)))


def rises(points: pd.DataFrame) -> bool:
    """Tell whether the error falls with the bits, by the slope of a weighted line."""
    weight, bits = column(points, "error_se") ** -2.0, column(points, "loss")
    away = bits - np.average(bits, weights=weight)
    spread = float((weight * away**2).sum())
    slope = float((weight * away * column(points, "error")).sum())
    return spread > 0 and slope / np.sqrt(spread) > ndtri(EVIDENCE)


def _loss_law(points: pd.DataFrame) -> Law | None:
    """Fit bits per byte against compute, with an offset where the models show one.

    By least squares: the median of so few residuals is not unique.
    """
    frontier = frontier_runs(points, "flops").drop(columns=["params", "tokens"])
    for form, parameters in zip(LOSS_FORMS, (3, 2), strict=True):
        if len(frontier) < parameters + SPARE_ROWS:
            continue
        objective = Objective(name="ls_log")
        law = fit(frontier, form, objective=objective, resamples=RESAMPLES, level=LEVEL)
        if law.usable:
            return law
    return None


def _accuracy_law(points: pd.DataFrame, chance: float) -> Law | None:
    """Fit the error against bits per byte, each model weighted by its standard error."""
    if len(points) < 3 + SPARE_ROWS or np.ptp(column(points, "loss")) == 0:
        return None
    weight = column(points, "error_se") ** -2.0
    table = points.assign(weight=weight / weight.mean())
    law = fit(
        table, "downstream_accuracy", fixed={"chance": chance}, resamples=RESAMPLES, level=LEVEL
    )
    return law if law.usable else None


def expected(scores: Scores, flops: float) -> Expected | None:
    """Return what a compute-optimal run of so many FLOPs would score; None without a law.

    The interval of the accuracy joins, in squares, that of its own law and that of the loss.
    """
    if scores.loss_law is None:
        return None
    bits, low, high = _predicted(scores.loss_law, "loss", flops=flops)
    bits_alone = Expected(bits=bits, bits_interval=(low, high))
    if scores.choice and scores.choice.law:
        error, *ends = _predicted(scores.choice.law, "error", flops=flops)
        least, most = (float(np.clip(1 - e, 0, 1)) for e in reversed(ends))
        return replace(bits_alone, accuracy=1 - error, accuracy_interval=(least, most))
    if scores.accuracy_law is None:
        return bits_alone
    law = scores.accuracy_law
    error, least, most = _predicted(law, "error", loss=bits)
    easier, harder = (_predicted(law, "error", loss=b)[0] for b in (low, high))
    best = error - np.hypot(error - least, error - easier)
    worst = error + np.hypot(most - error, harder - error)
    ends = (float(np.clip(1 - worst, 0, 1)), float(np.clip(1 - best, 0, 1)))
    return Expected(
        bits=bits, bits_interval=(low, high), accuracy=1 - error, accuracy_interval=ends
    )


def _predicted(law: Law, target: str, **at: float) -> tuple[float, float, float]:
    row = law.predict_table(pd.DataFrame({k: [v] for k, v in at.items()}), LEVEL).iloc[0]
    ends = (row["low"], row["high"]) if "low" in row else (row[target], row[target])
    return float(row[target]), float(ends[0]), float(ends[1])


def alarms_of(scores: Sequence[Scores]) -> list[dict[str, str]]:
    """Say of which tasks the accuracy is at chance over all models, or no matter of their loss."""
    raised = []
    for code, text in WITHOUT.items():
        lost = [s for s in scores if s.without == code]
        if lost:
            names, n = ", ".join(s.task for s in lost), max(len(s.points) for s in lost)
            sentence = (
                f"The accuracy of {names} {text} over the {n} models that were scored, so no law"
                " says what larger ones reach: read the loss of right answers, or score larger"
                " models."
            )
            raised.append({"code": code, "sentence": sentence, "where": "evaluation"})
    return raised


def score_pictures(scores: Sequence[Scores], flops: float | None) -> list[Picture]:
    """Draw bits per byte against C, up to a planned run's `flops`, and accuracy against them."""
    tasks = sorted(scores, key=lambda s: bool(s.without))[:MOST_TASKS]
    if not tasks:
        return []
    loss, accuracy = ({s.task: draw(s) for s in tasks} for draw in (_loss_of(flops), _accuracy_of))
    svg = run_charts.scores(
        loss, name="scores-loss", x=LABELS["flops"], y=f"{BITS} of right answers", logx=True
    )
    note = "" if flops is None else "; the lines go on to the planned run"
    first = Picture(
        name="scores-loss",
        svg=svg,
        caption="Task loss of every model by its compute, with the law of the models that no"
        f" cheaper one beats and its {100 * LEVEL:g}% interval{note}.",
    )
    svg = run_charts.scores(
        accuracy, name="scores-accuracy", x=f"{BITS} of right answers", y="accuracy (share)",
        logx=False, levels=[s.chance for s in tasks if s.chance],
    )  # fmt: skip
    second = Picture(
        name="scores-accuracy",
        svg=svg,
        caption="Accuracy of every model by its task loss, with standard errors; dashed lines are"
        " chance. A task without a law has no line.",
    )
    return [first, second]


def _loss_of(flops: float | None) -> Any:
    def draw(scores: Scores) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        points = scores.points.assign(x=scores.points["flops"], y=scores.points["loss"])
        if scores.loss_law is None:
            return points, None
        flops_tested = column(points, "flops")
        along = span(float(flops_tested.min()), max(float(flops_tested.max()), flops or 0.0))
        return points, _band(scores.loss_law, "flops", along)

    return draw


def _accuracy_of(scores: Scores) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    table = scores.points
    points = table.assign(x=table["loss"], y=1 - table["error"], bar=table["error_se"])
    if scores.accuracy_law is None:
        return points, None
    losses = column(table, "loss")
    band = _band(scores.accuracy_law, "loss", np.linspace(losses.min(), losses.max(), 80))
    turned = {"y": 1 - band["y"]} | (
        {"lo": 1 - band["hi"], "hi": 1 - band["lo"]} if "lo" in band else {}
    )
    return points, band.assign(**turned)


def _band(law: Law, variable: str, along: Array) -> pd.DataFrame:
    prediction = law.predict_table(pd.DataFrame({variable: along}), LEVEL, noise=False, force=True)
    target = FORMS[law.form].target
    ends = {"lo": prediction["low"], "hi": prediction["high"]} if "low" in prediction else {}
    return pd.DataFrame({"x": along, "y": prediction[target], **ends})


def score_grid(
    scores: Sequence[Scores], flops: float | None, reached: dict[str, Any] | None
) -> Grid:
    """Return a row a task: its laws, what they expect of a run of `flops`, what that reached."""
    rows = [_row(s, flops, (reached or {"tasks": {}})["tasks"].get(s.task)) for s in scores]
    columns = (
        "task", "models", "bits/byte against C", "accuracy against bits/byte",
        "bits/byte expected", "reached", "accuracy expected", "reached", "law of the accuracy",
    )  # fmt: skip
    name = "Laws of task scores, and what they expect of the planned run"
    return Grid(name=name, columns=columns, rows=rows, numeric=(1, 5, 7), wide=(2, 3, 8))


def _row(scores: Scores, flops: float | None, reached: dict[str, Any] | None) -> Row:
    forecast = expected(scores, flops) if flops else None
    bits = f"{number(forecast.bits)} {interval(forecast.bits_interval)}" if forecast else "–"
    accuracy = "–"
    if forecast and forecast.accuracy is not None and forecast.accuracy_interval is not None:
        accuracy = f"{forecast.accuracy:.3f} {interval(forecast.accuracy_interval, 3)}"
    return (
        scores.task,
        str(len(scores.points)),
        _loss_text(scores.loss_law),
        _accuracy_text(scores),
        bits,
        number(reached["bits_per_byte"]) if reached else "–",
        accuracy,
        f"{reached['acc']:.3f} ± {reached['acc_se']:.3f}" if reached else "–",
        _used_law_text(scores),
    )


def _loss_text(law: Law | None) -> str:
    if law is None:
        return "no law: too few models, or none that follows them"
    p, ends = law.parameters, (law.intervals or {}).get("parameters", {})
    offset = f"{number(p['E'], 3)} + " if "E" in p else ""
    power = f"{number(p['k'], 3)} C^-{number(p['exponent'], 3)}"
    return f"{offset}{power}, exponent {interval(ends.get('exponent'), 3)}"


def _used_law_text(scores: Scores) -> str:
    if scores.choice:
        return scores.choice.text
    return "–" if scores.without else "two steps; too few models to withhold any"


def _accuracy_text(scores: Scores) -> str:
    if scores.without:
        return f"{WITHOUT[scores.without]} (chance {scores.chance:.2f}): no law"
    law = scores.accuracy_law
    if law is None:
        return "no law: too few models, or none that follows them"
    p, ends = law.parameters, (law.intervals or {}).get("parameters", {})
    half, slope = (f"{number(p[k], 3)} {interval(ends.get(k), 3)}" for k in ("L_half", "g"))
    return f"from {scores.chance:.2f}, halfway at {half}, slope {slope}"
