"""The page of a table of loss curves: its law of form=schedule, errors by curve, forecasts."""

from dataclasses import replace
from pathlib import Path

from analysis.estimation.schedule import fit_schedule
from analysis.laws.law import Law
from analysis.page.sections.curve_forecasts import curve_pictures, error_grid, parameter_grid
from analysis.page.template import inline, page_script, render
from analysis.runs.columns import Columns
from analysis.runs.curves import CurveRuns, SizeCurves, table_curves
from scaling.schema import write_text


def curve_page(
    source: str | Path, *, out: str | Path = "", columns: Columns | None = None, law: str = ""
) -> Path:
    """Write the page of a table of curves and return its path.

    source: table with schedule, step, lr, loss
    out: file to write; empty is TABLE.html beside the table
    columns: what our columns are called
    law: file of a law of form=schedule; empty fits all curves, and writes it beside the page

    Raises ValueError for a study, for a table without curves, and for a law of another form.
    """
    path = Path(source)
    if path.is_dir():
        raise ValueError(
            "a study's page shows its law of curves beside its law of N and D: run scaling fit"
            f" runs={path} form=schedule, then scaling report runs={path}"
        )
    page = Path(out or path.with_suffix(".html"))
    runs = table_curves(path, columns=columns)
    if law:
        shown = Law.read(law)
        if not shown.curves:
            raise ValueError(
                f"law={law} is of form {shown.form}; give one of form=schedule, or leave law= out"
            )
        runs = replace(runs, sizes=(_with_warmup(shown, runs),))
    else:
        shown = fit_schedule(path, columns=columns)
        shown.write(page.with_suffix(".law.json"))
    return Path(write_text(page, render("curves.html.j2", **_context(path, shown, runs))))


def _with_warmup(law: Law, runs: CurveRuns) -> SizeCurves:
    """Return the curves with the warm-up of the law, which may know it better than the table."""
    warmup, peak = ((law.curves or {})["sizes"][-1]["fit"][k] for k in ("warmup_steps", "peak_lr"))
    (size,) = runs.sizes
    alike = all(abs(curve.peak_lr / peak - 1) < 1e-6 for curve in size.curves)
    earliest = min(float(curve.step[0]) for curve in size.curves)
    if not alike or warmup > earliest:
        return size
    return replace(size, curves=tuple(replace(c, warmup_steps=warmup) for c in size.curves))


def _context(path: Path, law: Law, runs: CurveRuns) -> dict[str, object]:
    curves = sum(len(size.curves) for size in runs.sizes)
    return {
        "title": path.stem,
        "lede": (
            f"{curves} loss curves of {path.name}. The law was fitted to {law.n_runs} of them"
            " (multi-power and annealing law, averaged by their errors on withheld curves)."
        ),
        "alarms": [{"code": a.code, "sentence": a.sentence, "where": "law"} for a in law.alarms],
        "answer": _answer(law),
        "figures_shown": inline(curve_pictures(law, runs.sizes)),
        "tables": [error_grid(law, runs.sizes), parameter_grid(law)],
        "footer": (
            "Made by scaling report form=schedule; the page holds all it shows and asks nothing of"
            " any network."
        ),
        "script": page_script(),
    }


def _answer(law: Law) -> list[str]:
    lines = [f"The law of the curves is {law.status.replace('_', ' ')}."]
    lines += [
        f"Best decay of {one['n_steps']:,} steps, {one['shape']}: the last"
        f" {100 * one['fraction']:.0f}% of them"
        f" [{100 * one['fraction_interval'][0]:.0f}, {100 * one['fraction_interval'][1]:.0f}],"
        f" loss {one['loss']:.4f} [{one['interval'][0]:.4f}, {one['interval'][1]:.4f}]."
        for one in (law.curves or {}).get("best_decay") or []
    ]
    return lines
