"""Several laws side by side at one budget: N*, D* and loss of each, and how far they disagree.

Losses of laws fitted on different corpora or tokenizers are not comparable; `regret` is: what each
law says the plan's N costs against its own optimum at the same C = 6ND.
"""

from collections.abc import Mapping
from typing import Any

from analysis.alarms.alarm import Alarm
from analysis.laws.law import Law, Optimum

FAR_APART = 2.0  # ratio of N* from which the laws are said to disagree


def side_by_side(
    laws: Mapping[str, Law], flops: float, *, level: float, params: float
) -> list[dict[str, Any]]:
    """Return a row a law at a budget, with its regret at the plan's `params`."""
    return [_row(name, law, flops, level, params) for name, law in laws.items()]


def disagreement(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the ratio of the largest to the smallest N*, D* and D*/N* of the laws."""
    return {
        name: max(r[name] for r in rows) / min(r[name] for r in rows)
        for name in ("params", "tokens", "tokens_per_param")
    }


def disagreement_alarm(rows: list[dict[str, Any]]) -> Alarm | None:
    """Say so where the laws lie far apart in N*."""
    ratio = disagreement(rows)["params"]
    if ratio < FAR_APART:
        return None
    least, most = (f(rows, key=lambda r: r["params"]) for f in (min, max))
    return Alarm(
        code="laws_disagree",
        sentence=f"N* differs {ratio:.3g}-fold between the laws, {least['params']:.3g} by"
        f" {least['law']} and {most['params']:.3g} by {most['law']}: settle it by runs of your own"
        " before spending the budget.",
    )


def comparison_lines(rows: list[dict[str, Any]], flops: float) -> list[str]:
    """Return the table as text, at most 100 columns."""
    head = f"  {'law':<24} {'count':<13} {'N*':>9} {'D*':>9} {'D*/N*':>7} {'loss':>8} {'regret':>9}"
    lines = [f"laws side by side at C = {flops:.4g} FLOPs", head]
    for row in rows:
        loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
        regret = "-" if row["regret"] is None else f"{row['regret']:+.2g}"
        name = row["law"] if len(row["law"]) <= 24 else f"..{row['law'][-22:]}"
        lines.append(
            f"  {name:<24} {row['count']:<13} {row['params']:>9.4g} {row['tokens']:>9.4g}"
            f" {row['tokens_per_param']:>7.3g} {loss:>8} {regret:>9}"
        )
        if row["interval"]:
            low, high = row["interval"]
            lines.append(f"  {'':<24} N* {100 * row['level']:g}% [{low:.4g}, {high:.4g}]")
    apart = disagreement(rows)
    lines.append(
        f"  largest over smallest: N* {apart['params']:.3g}, D* {apart['tokens']:.3g}, D*/N*"
        f" {apart['tokens_per_param']:.3g}; regret in nats at the plan's N"
    )
    return lines


def _row(name: str, law: Law, flops: float, level: float, params: float) -> dict[str, Any]:
    best = law.optimum(flops, level)
    return {
        "law": name,
        "form": law.form,
        "count": law.count,
        "params": best.params,
        "tokens": best.tokens,
        "tokens_per_param": best.tokens_per_param,
        "interval": list(best.intervals.get("params", ())),
        "loss": best.loss,
        "regret": _regret(law, best, flops, params),
        "level": level,
    }


def _regret(law: Law, best: Optimum, flops: float, params: float) -> float | None:
    if best.loss is None:
        return None
    here = law.predict(params, flops / 6 / params, noise=False, force=True).loss
    return float(here) - best.loss
