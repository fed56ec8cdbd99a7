"""The settings of a surface on the page: the valley at the N and D that were asked, and tables."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import valley_charts
from analysis.forms import column
from analysis.forms.settings.surface import excess
from analysis.laws.law import Law
from analysis.laws.surface_law import FORM, NAMES, BestSettings
from analysis.number_text import number, short
from analysis.page.contents import Material
from analysis.page.gallery import Picture
from analysis.page.tables import Grid
from analysis.page.template import inline

SIDE = 90  # rates, and batches, of the picture
MARGIN = 1.6  # factor by which the picture reaches beyond the chosen and the tried settings
SAME = 0.01  # distance of log N and log D up to which settings were tried at the point asked
LABELS = {
    "lr": "peak learning rate",
    "batch": "batch (tokens)",
    "weight_decay": "weight decay",
}


def runs_with_settings(material: Material) -> pd.DataFrame:
    """Return params, tokens, loss, lr and batch (tokens) of done cells, or of a table."""
    names = ["params", "tokens", "loss", "lr", "batch"]
    if material.table is not None:
        return material.table.reindex(columns=names)
    rows = [
        {
            "params": float(getattr(r.params, material.count)),
            "tokens": float(r.tokens),
            "loss": r.test_loss,
            "lr": r.peak_lr,
            "batch": float(r.batch_tokens),
        }
        for r in material.records
        if r.status == "done" and r.test_loss is not None
    ]
    return pd.DataFrame(rows, columns=names)


def settings_part(material: Material) -> dict[str, Any]:
    """Return what the page shows of a surface; empty texts and tables for another law."""
    law = material.law
    if law is None or law.form != FORM or not law.usable:
        none = Grid(name="settings", columns=(), rows=[])
        return {"settings_note": "", "settings_table": none, "withheld_table": none,
                "settings_figures": []}  # fmt: skip
    rows = runs_with_settings(material)
    params, tokens, why = asked(material)
    level = (law.intervals or {}).get("level", 0.9)
    at = law.settings(params, tokens, level)
    where = f"N = {short(params)}, D = {short(tokens)} ({why})"
    return {
        "settings_note": f"The best settings at {where}. {' '.join(_sentences(at))}".strip(),
        "settings_table": settings_grid(law, at, (params, tokens), level),
        "withheld_table": withheld_grid(law),
        "settings_figures": inline([valley_picture(law, at, (params, tokens), rows, where)]),
    }


def asked(material: Material) -> tuple[float, float, str]:
    """Return N and D at which settings are shown, and where they are from."""
    if material.asked is not None:
        return *material.asked, "asked"
    if material.plan is not None:
        return material.plan.pretrain.params, material.plan.pretrain.tokens, "the plan"
    assert material.law is not None
    points = material.law.methods[FORM]["points"]
    largest = max(points, key=lambda p: p["params"] * p["tokens"])
    return largest["params"], largest["tokens"], "the largest point"


def settings_grid(law: Law, at: BestSettings, place: tuple[float, float], level: float) -> Grid:
    """Return the best settings with their intervals, and what a factor of two costs."""
    loss = float(law.predict(*place, level).loss)
    rows = []
    for name in NAMES:
        value = getattr(at, name)
        if value is None:
            continue
        ends = at.intervals.get(name)
        costs = [_cost(law, at, place, name, factor) for factor in (0.5, 2.0)]
        pair = f"{number(ends[0], 3)} to {number(ends[1], 3)}" if ends else ""
        rows.append((LABELS[name], number(value, 3), pair, *(f"{c:.2%}" for c in costs)))
    rows.append(("loss there", number(loss, 4), _ends(law, place, level), "", ""))
    return Grid(
        name="settings",
        columns=("setting", "best", f"{level:.0%} interval", "loss of half of it", "of twice it"),
        rows=rows,
        numeric=(1, 3, 4),
    )


def withheld_grid(law: Law) -> Grid:
    """Return what the settings of smaller points lose at withheld larger ones."""
    return Grid(
        name="settings withheld",
        columns=("points fitted", "withheld", "C beyond", "they lose", "at worst", "loss error"),
        rows=[
            (
                str(row["n_points"]), str(row["n_withheld"]), f"x{number(row['reach'], 3)}",
                f"{row['mean']:.2%}", f"{row['worst']:.2%}", f"{row['loss_error']:.2%}",
            )
            for row in law.methods[FORM]["hindcasts"]
        ],
        numeric=(0, 1, 2, 3, 4, 5),
    )  # fmt: skip


def valley_picture(
    law: Law, at: BestSettings, place: tuple[float, float], rows: pd.DataFrame, where: str
) -> Picture:
    """Draw the valley at an N and D, with the settings that were tried there and elsewhere."""
    known = rows.dropna(subset=["lr", "batch"])
    away = np.abs(np.log(column(known, "params") / place[0]))
    away = np.maximum(away, np.abs(np.log(column(known, "tokens") / place[1])))
    tried, others = known.loc[away <= SAME], known.loc[away > SAME]
    axes = {}
    for name in ("lr", "batch"):
        values = [*law.ranges[name], getattr(at, name)]
        axes[name] = np.geomspace(min(values) / MARGIN, max(values) * MARGIN, SIDE)
    lr, batch = np.meshgrid(axes["lr"], axes["batch"])
    values = {"params": place[0], "tokens": place[1], "lr": lr, "batch": batch}
    svg = valley_charts.valley(
        axes["lr"],
        axes["batch"],
        np.asarray(excess(law.parameters, values)),
        chosen=(at.lr, at.batch),
        intervals={k: v for k, v in at.intervals.items() if k in axes},
        tried=tried[["lr", "batch"]].drop_duplicates(),
        others=others[["lr", "batch"]].drop_duplicates(),
    )
    bars = f", bars its {at.level:.0%} intervals" if at.intervals else ""
    caption = (
        f"What settings lose to the best at {where}: lines of equal loss over rate and batch. The"
        f" star is the choice{bars}; dots are settings that were tried."
    )
    return Picture(name="valley", svg=svg, caption=caption)


def _cost(
    law: Law, at: BestSettings, place: tuple[float, float], name: str, factor: float
) -> float:
    values = {"params": place[0], "tokens": place[1], "lr": at.lr, "batch": at.batch}
    if at.weight_decay is not None:
        values["weight_decay"] = at.weight_decay
    return float(excess(law.parameters, {**values, name: values[name] * factor}))


def _ends(law: Law, place: tuple[float, float], level: float) -> str:
    prediction = law.predict(*place, level)
    if prediction.low is None or prediction.high is None:
        return ""
    return f"{number(float(prediction.low), 4)} to {number(float(prediction.high), 4)}"


def _sentences(at: BestSettings) -> list[str]:
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in at.outside]
