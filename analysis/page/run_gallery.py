"""Figures about runs, each with its caption: curves, forecast, stages, over-optimisation.

A figure without data is left out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimation.critical_batch import batch_at
from analysis.figures import batch_charts, run_charts
from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.number_text import power
from analysis.page.contents import Material, ended_at, loss_curve
from analysis.page.gallery import Picture
from analysis.page.overoptimisation import JudgeCurve


def curve_pictures(material: Material) -> list[Picture]:
    """Draw the training curves of all cells, and of the final run to its end."""
    curves = material.training
    if not len(curves):
        return []
    final, record = None, material.final.stages.get("pretrain")
    if record and "pretrain" in material.final.curves:
        rows = material.final.curves["pretrain"].to_dict(orient="records")
        final = ended_at(loss_curve(rows), record)
    return [
        Picture(
            name="curves",
            svg=run_charts.training_curves(curves, final=final),
            caption=f"Test loss during training, one line a cell{_curve_tokens(material)}.",
        )
    ]


def _curve_tokens(material: Material) -> str:
    """Say on how many test tokens curves and ends are scored, where the records know it."""
    evals = [r.config.get("eval", {}) for r in material.records]
    on_way = {int(e["curve_tokens"]) for e in evals if e.get("curve_tokens")}
    at_end = {int(e["test_tokens"]) for e in evals if e.get("test_tokens")}
    if len(on_way) != 1 or len(at_end) != 1 or min(on_way) >= max(at_end):
        return ", to the test loss of its end"
    return (
        f": on the first {min(on_way):,} test tokens on the way, on all of about {max(at_end):,} at"
        " its end, which is the cell's point in the other figures"
    )


def final_pictures(material: Material) -> list[Picture]:
    """Draw the forecast with its interval against the outcome."""
    plan, record, forecast = material.plan, material.final.stages.get("pretrain"), material.forecast
    if not plan or not forecast or not forecast.test_loss or len(forecast.interval) != 2:
        return []
    outcome = record.test_loss if record else None
    pictures = [
        Picture(
            name="forecast",
            svg=run_charts.forecast(
                forecast.test_loss, forecast.interval, level=forecast.level, outcome=outcome
            ),
            caption=f"Test loss forecast for C = {power(plan.pretrain.flops, 3)} FLOPs"
            + (" and what the run reached." if outcome is not None else "; the run has not ended."),
        )
    ]
    if forecast.curve and all(len(point.interval) == 2 for point in forecast.curve):
        end = (plan.pretrain.tokens, forecast.test_loss, *forecast.interval)
        points = [(p.tokens, p.test_loss, *p.interval) for p in forecast.curve]
        svg = run_charts.forecast_band(
            pd.DataFrame([*points, end], columns=["x", "y", "lo", "hi"]),
            material.final.band.get("rows", []),
            level=forecast.level,
            outcome=outcome,
        )
        caption = "The forecast under way, sealed before the run, and what was measured on the way."
        pictures.append(Picture(name="forecast_curve", svg=svg, caption=caption))
    return pictures


def tuning_pictures(points: Sequence[dict[str, Any]], cells: pd.DataFrame) -> list[Picture]:
    """Draw loss against learning rate or batch at each (N, D) that was swept, with its optimum."""
    pictures = []
    for axis, name in (("lr", "peak learning rate"), ("batch", "batch (tokens)")):
        swept = [p for p in points if axis in p["optima"]]
        if not swept:
            continue
        svg = run_charts.tuning(swept, cells, axis=axis, x=name)
        caption = (
            f"Loss against {name} where it was swept; diamonds are the optima, bars the settings"
            " within .25% of the best. One at the edge of what was tried is left out."
        )
        pictures.append(Picture(name=f"tuning_{axis}", svg=svg, caption=caption))
    return pictures


def critical_batch_pictures(law: Law | None, *, level: float) -> list[Picture]:
    """Draw the critical batches of a law of them; none for another law."""
    if law is None or law.form != "critical_batch":
        return []
    points = law.methods["critical_batch"]["points"]
    reach = np.geomspace(points[0]["at_tokens"], 4 * points[-1]["at_tokens"], 30)
    rows = [(t, *batch_at(law, float(t), level)) for t in reach]
    line = pd.DataFrame(rows, columns=["x", "y", "lo", "hi"])
    caption = (
        f"The largest batch whose loss is within {law.methods['critical_batch']['tolerance']:g} of"
        f" the least, at each point of each trunk, and its law with the {100 * level:g}% interval"
        " of a new point."
    )
    return [
        Picture(name="critical_batch", svg=batch_charts.critical(points, line), caption=caption)
    ]


def stage_pictures(
    stage: str, rows: pd.DataFrame, *, kl_budget: float | None = None
) -> list[Picture]:
    """Draw a stage's curves: those of its metrics that are there."""
    pictures = []
    for name, series, y, caption in _STAGE_FIGURES.get(stage, ()):
        present = {k: v for k, v in series.items() if k in rows and bool(rows[k].count())}
        if not present or "step" not in rows:
            continue
        lines = {f"budget {kl_budget:g}": kl_budget} if name == "kl" and kl_budget else None
        svg = run_charts.curve(
            rows, present, name=f"{stage}-{name}", y=y, title=caption, lines=lines
        )
        pictures.append(Picture(name=f"{stage}_{name}", svg=svg, caption=caption))
    return pictures


_OVEROPTIMISED = {
    "best-of-n": "Gold reward of the best of n by each judge, over prompts; lines are d (α − β d).",
    "ppo": "Gold reward of PPO's updates; the line is d (α − β log d). Its KL is not best-of-n's.",
}


def overoptimised(name: str, curves: Sequence[JudgeCurve | None]) -> list[Picture]:
    """Draw the judges' curves with their laws, the first six."""
    judged = [c for c in curves if c is not None]
    if not judged:
        return []

    def along(one: JudgeCurve) -> Callable[[Any], Any]:
        function = FORMS[one.law.form].function
        assert function is not None
        return lambda kl: function(one.law.parameters, {"kl": kl})

    series = [(c.name, c.points, along(c)) for c in judged]
    svg = run_charts.overoptimised(series, name=f"overoptimised-{name}", title="Over-optimisation")
    return [Picture(name=f"overoptimised_{name}", svg=svg, caption=_OVEROPTIMISED[name])]


_STAGE_FIGURES: dict[str, tuple[tuple[str, dict[str, str], str, str], ...]] = {
    "sft": (
        (
            "loss",
            {"train_loss": "training", "test_loss": "held out"},
            "loss (nats/token)",
            "Fine-tuning loss on the completions.",
        ),
    ),
    "reward": (
        (
            "loss",
            {"train_loss": "training", "test_loss": "held out"},
            "loss (nats/pair)",
            "Bradley-Terry loss of the reward model.",
        ),
        (
            "accuracy",
            {"test_accuracy": "held out"},
            "accuracy (share of pairs)",
            "Pairs that the reward model orders as the judge does.",
        ),
    ),
    "ppo": (
        (
            "reward",
            {"reward": "reward model", "gold_reward": "gold judge"},
            "reward (score)",
            "Reward of the samples: what is optimised, and the judge behind it.",
        ),
        (
            "kl",
            {"kl": "measured"},
            "KL (nats/sequence)",
            "KL to the fine-tuned policy, with the budget.",
        ),
        ("entropy", {"entropy": "entropy"}, "entropy (nats/token)", "Entropy of the policy."),
        (
            "health",
            {"clip_fraction": "clipped", "explained_variance": "explained variance of the critic"},
            "share",
            "Share of tokens at the clip, and how much of the returns the critic explains.",
        ),
        (
            "coefficient",
            {"kl_coefficient": "coefficient"},
            "KL coefficient (reward per nat)",
            "Coefficient of the KL penalty.",
        ),
    ),
}
